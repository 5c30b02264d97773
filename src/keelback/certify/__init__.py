"""Certificates: what holds for one trained model, from its weights and its data."""

from keelback._moved import moved
from keelback.certify._alphabet import OF_BYTES, Alphabet
from keelback.certify._certificate import certificate_of
from keelback.certify._certification import Certification, PacBayes, certify_model
from keelback.certify._class_certificate import ClassCertificate, ClassCertificates, certify_class
from keelback.certify._coded_model import (
    CodedModel,
    is_coded_model,
    read_coded_model,
    require_alphabet,
)
from keelback.certify._compress import CompressionRecipe, compress
from keelback.certify._held_out import HeldOut
from keelback.certify._language import LanguageCertification, certify_language
from keelback.certify._language_certificate import language_certificate, language_words
from keelback.certify._language_sample import Draw, sample_of
from keelback.certify._measure import logits, margins, measure_constants, ramp_risk
from keelback.certify._overlap import Overlap, Policy, find_overlap
from keelback.certify._pac_bayes import (
    PRIOR_SIGMAS,
    GaussianWeights,
    PacBayesCertificate,
    bounded_cross_entropy,
    certify_pac_bayes,
    gibbs_errors,
)
from keelback.certify._read_class import read_class
from keelback.training import wrong

__all__ = [
    "OF_BYTES",
    "PRIOR_SIGMAS",
    "Alphabet",
    "Certification",
    "ClassCertificate",
    "ClassCertificates",
    "CodedModel",
    "CompressionRecipe",
    "Draw",
    "GaussianWeights",
    "HeldOut",
    "LanguageCertification",
    "Overlap",
    "PacBayes",
    "PacBayesCertificate",
    "Policy",
    "bounded_cross_entropy",
    "certificate_of",
    "certify_class",
    "certify_language",
    "certify_model",
    "certify_pac_bayes",
    "compress",
    "find_overlap",
    "gibbs_errors",
    "is_coded_model",
    "language_certificate",
    "language_words",
    "logits",
    "margins",
    "measure_constants",
    "ramp_risk",
    "read_class",
    "read_coded_model",
    "require_alphabet",
    "sample_of",
    "wrong",
]

__getattr__ = moved(__name__, {"require_bytes": "keelback.certify:require_alphabet"})
