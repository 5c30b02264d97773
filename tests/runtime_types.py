"""How annotations are checked while tests run."""

from beartype import BeartypeConf, beartype

# An int counts as a float, as PEP 484 has it. Variables are left to mypy: `Self` is none of their
# types for beartype.
CONFIGURATION = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False)

checked = beartype(conf=CONFIGURATION)
