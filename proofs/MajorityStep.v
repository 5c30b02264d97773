(** Majority voting: the signs of one population gradient step (docs/dynamics.md).

    [own] tokens carry o_+ and [other] tokens o_-, at random positions among L; the rest are
    irrelevant features. *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation RandomPositions.
Import ListNotations.
Open Scope R_scope.

Section Majority.

Variables (L own other : nat) (population : list sequence).
Hypotheses (L3 : (3 <= L)%nat) (more : (other < own)%nat).
Hypothesis M : majority L own other population.

Let triples : R := INR L * (INR L - 1) * (INR L - 2).

Lemma triples_pos : 0 < triples.
Proof.
  assert (3 <= INR L) by (apply (le_INR 3) in L3; simpl in L3; lra).
  unfold triples. apply Rmult_lt_0_compat; [apply Rmult_lt_0_compat|]; lra.
Qed.

Lemma class_tokens_fit : (own + other <= L)%nat.
Proof.
  apply INR_le. rewrite plus_INR. destruct population as [|X rest] eqn:P.
  { exfalso. now apply (some_sequence _ _ _ _ M). }
  rewrite <- (own_tokens _ _ _ _ M X), <- (other_tokens _ _ _ _ M X) by now left.
  unfold number. rewrite <- sum_plus. rewrite <- (Rmult_1_r (INR L)), <- sum_const. apply sum_le.
  intros s _. destruct (X s) as [|[|x]]; unfold same; simpl; lra.
Qed.

Lemma same_square x c : same x c * same x c = same x c.
Proof. unfold same. destruct (x =? c)%nat; ring. Qed.

(** Pairs of c with a class token between them. *)
Lemma class_between c count :
  (c <= 1)%nat -> (forall X, In X population -> number c X L = INR count) ->
  triples * mean population (fun X => between c of_a_class X L)
  = pair_weight L * (INR count * (INR count - 1) * (INR own + INR other - 2)).
Proof.
  intros c1 Hc. pose proof (random_positions _ _ _ _ M) as E.
  rewrite (mean_between L population L3 E c of_a_class).
  transitivity (pair_weight L * (triples * triple population (of_feature c) of_a_class
    (of_feature c) 0 1 2)); [ring|]. f_equal. unfold triples.
  rewrite (triple_mean L population L3 E) by lia.
  rewrite <- (mean_const population (_ * _ * _) (some_sequence _ _ _ _ M)).
  apply mean_ext. intros X I.
  rewrite (sum_different L (fun s => of_feature c (X s)) (fun s => of_a_class (X s))
    (fun s => of_feature c (X s))).
  assert (Sc : \sum_(s < L) of_feature c (X s) = INR count) by now apply Hc.
  assert (Sclass : \sum_(s < L) of_a_class (X s) = INR own + INR other).
  { rewrite <- (own_tokens _ _ _ _ M X I), <- (other_tokens _ _ _ _ M X I).
    unfold of_a_class. apply sum_plus. }
  assert (absorb : forall x, of_feature c x * of_a_class x = of_feature c x).
  { intros x. unfold of_feature, of_a_class.
    destruct c as [|[|c]]; [| |lia]; destruct x as [|[|x]]; unfold same; simpl; ring. }
  rewrite (sum_ext L (fun s => of_feature c (X s) * of_a_class (X s)) (fun s => of_feature c (X s)))
    by (intros; apply absorb).
  rewrite (sum_ext L (fun s => of_a_class (X s) * of_feature c (X s)) (fun s => of_feature c (X s)))
    by (intros; rewrite Rmult_comm; apply absorb).
  rewrite (sum_ext L (fun s => of_feature c (X s) * of_feature c (X s)) (fun s => of_feature c (X s)))
    by (intros; apply same_square).
  rewrite (sum_ext L (fun s => of_feature c (X s) * of_a_class (X s) * of_feature c (X s))
    (fun s => of_feature c (X s))) by (intros; rewrite absorb; apply same_square).
  rewrite Sc, Sclass. ring.
Qed.

(** Pairs of c with a token of the irrelevant feature k between them. *)
Lemma irrelevant_between c count k :
  (c <= 1)%nat -> (2 <= k)%nat -> (forall X, In X population -> number c X L = INR count) ->
  triples * mean population (fun X => between c (of_feature k) X L)
  = pair_weight L * (INR count * (INR count - 1) * mean population (fun X => number k X L)).
Proof.
  intros c1 k2 Hc. pose proof (random_positions _ _ _ _ M) as E.
  rewrite (mean_between L population L3 E c (of_feature k)).
  transitivity (pair_weight L * (triples * triple population (of_feature c) (of_feature k)
    (of_feature c) 0 1 2)); [ring|]. f_equal. unfold triples.
  rewrite (triple_mean L population L3 E) by lia. rewrite <- mean_scal.
  apply mean_ext. intros X I.
  rewrite (sum_different L (fun s => of_feature c (X s)) (fun s => of_feature k (X s))
    (fun s => of_feature c (X s))).
  assert (Sc : \sum_(s < L) of_feature c (X s) = INR count) by now apply Hc.
  assert (none : forall x, of_feature c x * of_feature k x = 0).
  { intros x. unfold of_feature. destruct (same_cases x c) as [->|[-> ->]]; [ring|].
    rewrite same_diff by lia. ring. }
  rewrite (sum_zero L (fun s => of_feature c (X s) * of_feature k (X s))) by (intros; apply none).
  rewrite (sum_zero L (fun s => of_feature k (X s) * of_feature c (X s)))
    by (intros; rewrite Rmult_comm; apply none).
  rewrite (sum_ext L (fun s => of_feature c (X s) * of_feature c (X s)) (fun s => of_feature c (X s)))
    by (intros; apply same_square).
  rewrite (sum_zero L (fun s => of_feature c (X s) * of_feature k (X s) * of_feature c (X s)))
    by (intros; rewrite none; ring).
  rewrite Sc. unfold number, of_feature. ring.
Qed.

(** Majority voting, class features, for a readout that is A on o_+ and -A on o_-: the step on
    both is A (own - other) / (8 L) times 1 - 2 kappa (n-1)(n-2) / (L (L-1) (L-2)), where
    n = own + other and kappa is the sum over s < j < l of 2^{-(l-s+1)}. *)
Theorem majority_class_step A a k :
  (k <= 1)%nat -> (forall x, a x = A * (same x 0 - same x 1)) ->
  gate_step L a population k
  = A * (INR own - INR other) / (8 * INR L)
    * (1 - 2 * pair_weight L * ((INR own + INR other - 1) * (INR own + INR other - 2)) / triples).
Proof.
  intros k1 Ha. assert (L0 : 0 < INR L) by (apply lt_0_INR; lia).
  pose proof triples_pos as T0.
  rewrite (class_step L A) by (try easy; lia).
  pose proof (class_between 0 own ltac:(lia) (own_tokens _ _ _ _ M)) as B0.
  pose proof (class_between 1 other ltac:(lia) (other_tokens _ _ _ _ M)) as B1.
  rewrite (mean_ext population _ (fun X => (INR own - INR other) / 4
    - / 2 * (between 0 of_a_class X L - between 1 of_a_class X L))).
  2:{ intros X I. rewrite (own_tokens _ _ _ _ M X I), (other_tokens _ _ _ _ M X I). field. }
  rewrite mean_minus, mean_scal, mean_minus, mean_const by apply (some_sequence _ _ _ _ M).
  set (b0 := mean population (fun X => between 0 of_a_class X L)) in *.
  set (b1 := mean population (fun X => between 1 of_a_class X L)) in *.
  apply Rmult_eq_reg_l with triples; [|lra].
  transitivity (A / (2 * INR L)
    * (triples * ((INR own - INR other) / 4) - / 2 * (triples * b0 - triples * b1))); [ring|].
  rewrite B0, B1. field. lra.
Qed.

(** The gate opens for both class features, whatever the length, the dimension and the numbers of
    tokens: the step on o_+ and on o_- is positive as soon as own > other and A > 0. *)
Theorem majority_gate_opens A a k :
  0 < A -> (k <= 1)%nat -> (forall x, a x = A * (same x 0 - same x 1)) ->
  0 < gate_step L a population k.
Proof.
  intros A0 k1 Ha. rewrite (majority_class_step A a k k1 Ha). pose proof triples_pos as T0.
  assert (L0 : 0 < INR L) by (apply lt_0_INR; lia).
  pose proof (lt_INR _ _ more) as gap.
  apply Rmult_lt_0_compat; [apply Rdiv_lt_0_compat; [apply Rmult_lt_0_compat|]; lra|].
  enough (2 * pair_weight L * ((INR own + INR other - 1) * (INR own + INR other - 2)) < triples).
  { apply Rlt_Rminus. apply (Rlt_div_l _ _ triples); [easy | lra]. }
  pose proof (pair_weight_bounds L) as [k0 _]. pose proof (pair_weight_strict L ltac:(lia)) as kL.
  assert (fit : (INR own + INR other - 1) * (INR own + INR other - 2)
                <= (INR L - 1) * (INR L - 2)).
  { pose proof class_tokens_fit as F. rewrite <- plus_INR.
    set (n := (own + other)%nat) in *. apply le_INR in F.
    destruct (Nat.eq_dec n 1) as [->|n1].
    - apply (le_INR 3) in L3. simpl in *. nra.
    - assert (2 <= INR n) by (apply (le_INR 2); lia). nra. }
  assert (0 < (INR L - 1) * (INR L - 2)).
  { apply (le_INR 3) in L3. simpl in L3. nra. }
  replace triples with (INR L * ((INR L - 1) * (INR L - 2))) by (unfold triples; ring).
  apply Rle_lt_trans with (2 * pair_weight L * ((INR L - 1) * (INR L - 2))); [|nra].
  apply Rmult_le_compat_l; lra.
Qed.

(** Majority voting, irrelevant features: for any readout the step on feature k is
    -(a_+ - a_-) kappa (own - other) (own + other - 1) / (4 L) / (L (L-1) (L-2)) times the expected
    number of tokens of feature k; so w moves down on them, if at all. *)
Theorem majority_irrelevant_step a k :
  (2 <= k)%nat ->
  gate_step L a population k
  = - ((a 0%nat - a 1%nat) / (4 * INR L))
    * (pair_weight L * ((INR own - INR other) * (INR own + INR other - 1)) / triples)
    * mean population (fun X => number k X L).
Proof.
  intros k2. assert (L0 : 0 < INR L) by (apply lt_0_INR; lia). pose proof triples_pos as T0.
  rewrite irrelevant_step by (try easy; lia).
  pose proof (irrelevant_between 0 own k ltac:(lia) k2 (own_tokens _ _ _ _ M)) as B0.
  pose proof (irrelevant_between 1 other k ltac:(lia) k2 (other_tokens _ _ _ _ M)) as B1.
  rewrite mean_minus, Rmult_assoc. f_equal.
  apply Rmult_eq_reg_l with triples; [|lra].
  rewrite Rmult_minus_distr_l, B0, B1. field. lra.
Qed.

Theorem majority_irrelevant_closes a k :
  (2 <= k)%nat -> a 1%nat < a 0%nat -> (2 <= own + other)%nat ->
  (exists X, In X population /\ 0 < number k X L) ->
  gate_step L a population k < 0.
Proof.
  intros k2 order two some. rewrite majority_irrelevant_step by easy.
  assert (L0 : 0 < INR L) by (apply lt_0_INR; lia). pose proof triples_pos as T0.
  pose proof (pair_weight_pos L L3). pose proof (lt_INR _ _ more).
  assert (2 <= INR own + INR other) by (rewrite <- plus_INR; now apply (le_INR 2)).
  assert (0 < mean population (fun X => number k X L)).
  { rewrite <- (mean_const population 0 (some_sequence _ _ _ _ M)). apply mean_lt; [|easy].
    intros X _. apply sum_nonneg. intros s _. unfold same. destruct (_ =? _)%nat; lra. }
  assert (0 < (a 0%nat - a 1%nat) / (4 * INR L)) by (apply Rdiv_lt_0_compat; lra).
  assert (0 < pair_weight L * ((INR own - INR other) * (INR own + INR other - 1)) / triples).
  { apply Rdiv_lt_0_compat; [|easy]. apply Rmult_lt_0_compat; [easy|]. nra. }
  assert (0 < (a 0%nat - a 1%nat) / (4 * INR L)
    * (pair_weight L * ((INR own - INR other) * (INR own + INR other - 1)) / triples))
    by now apply Rmult_lt_0_compat.
  nra.
Qed.

(** Pairs of c at two different positions. *)
Lemma pair_mean c count s l :
  (forall X, In X population -> number c X L = INR count) ->
  (s < l < L)%nat ->
  INR L * (INR L - 1) * mean population (fun X => same (X s) c * same (X l) c)
  = INR count * (INR count - 1).
Proof.
  intros Hc sl. pose proof (random_positions _ _ _ _ M) as E.
  assert (L3' : 3 <= INR L) by (apply (le_INR 3) in L3; simpl in L3; lra).
  assert (third : exists j, (j < L)%nat /\ s <> j /\ j <> l).
  { destruct (Nat.eq_dec s 0) as [->|]; [|exists 0%nat; lia].
    destruct (Nat.eq_dec l 1) as [->|]; [exists 2%nat | exists 1%nat]; lia. }
  destruct third as [j [jL [sj jl]]].
  pose proof (triple_mean L population L3 E (of_feature c) (fun _ => 1) (of_feature c) s j l
    ltac:(lia) jL ltac:(lia) sj ltac:(lia) jl) as T.
  rewrite (mean_ext population (fun X => \sum_(s < L) _)
    (fun _ => INR count * (INR count - 1) * (INR L - 2))) in T.
  - rewrite mean_const in T by apply (some_sequence _ _ _ _ M).
    unfold triple in T.
    rewrite (mean_ext population (fun X => of_feature c (X s) * 1 * of_feature c (X l))
      (fun X => same (X s) c * same (X l) c)) in T by (intros; unfold of_feature; ring).
    apply Rmult_eq_reg_r with (INR L - 2); [|lra]. rewrite <- T. ring.
  - intros X I. rewrite (sum_different L (fun s => of_feature c (X s)) (fun _ => 1)
      (fun s => of_feature c (X s))).
    assert (Sc : \sum_(s < L) of_feature c (X s) = INR count) by now apply Hc.
    assert (sq : forall x, of_feature c x * of_feature c x = of_feature c x)
      by (intros; apply same_square).
    rewrite (sum_ext L (fun s => of_feature c (X s) * 1) (fun s => of_feature c (X s)))
      by (intros; ring).
    rewrite (sum_ext L (fun s => 1 * of_feature c (X s)) (fun s => of_feature c (X s)))
      by (intros; ring).
    rewrite (sum_ext L (fun s => of_feature c (X s) * of_feature c (X s))
      (fun s => of_feature c (X s))) by (intros; apply sq).
    rewrite (sum_ext L (fun s => of_feature c (X s) * 1 * of_feature c (X s))
      (fun s => of_feature c (X s))) by (intros; rewrite Rmult_1_r; apply sq).
    rewrite Sc, sum_const. ring.
Qed.

(** The sum over s < l of 2^{-(l - s + 1)}. *)
Definition distance_weight (n : nat) : R := \sum_(l < n) \sum_(s < l) (1 / 2) ^ S (l - s).

Lemma mean_readout_slope c count :
  (forall X, In X population -> number c X L = INR count) ->
  mean population (fun X => readout_slope L X c)
  = (INR count / 2 + distance_weight L * (INR count * (INR count - 1)) / (INR L * (INR L - 1)))
    / INR L.
Proof.
  intros Hc. assert (L3' : 3 <= INR L) by (apply (le_INR 3) in L3; simpl in L3; lra).
  rewrite (mean_ext population _ (fun X => / INR L * (/ 2 * number c X L
    + \sum_(l < L) \sum_(s < l) ((1 / 2) ^ S (l - s) * (same (X s) c * same (X l) c))))).
  - rewrite mean_scal, mean_plus, mean_scal.
    rewrite (mean_ext population (fun X => number c X L) (fun _ => INR count)) by auto.
    rewrite mean_const by apply (some_sequence _ _ _ _ M).
    enough (P : mean population (fun X => \sum_(l < L) \sum_(s < l)
        ((1 / 2) ^ S (l - s) * (same (X s) c * same (X l) c)))
      = distance_weight L * (INR count * (INR count - 1)) / (INR L * (INR L - 1)))
      by (rewrite P; field; lra).
    unfold distance_weight, Rdiv at 2. rewrite Rmult_assoc, mean_sum, <- sum_scal_r.
    apply sum_ext. intros l lL. rewrite mean_sum, <- sum_scal_r. apply sum_ext. intros s sl.
    rewrite mean_scal. f_equal. rewrite <- (pair_mean c count s l Hc ltac:(lia)). field. lra.
  - intros X _. unfold readout_slope, number. unfold Rdiv at 1. rewrite Rmult_comm. f_equal.
    rewrite <- sum_scal, <- sum_plus. apply sum_ext. intros l _. cbn [sum].
    rewrite same_self, Nat.sub_diag, pow_1.
    destruct (same_cases (X l) c) as [->|[E ->]].
    + rewrite (sum_zero l (fun s => (1 / 2) ^ S (l - s) * (same (X s) c * 0)))
        by (intros; ring). ring.
    + rewrite E, (sum_ext l (fun s => same (X s) c * (1 / 2) ^ S (l - s))
        (fun s => (1 / 2) ^ S (l - s) * (same (X s) c * 1))) by (intros; ring). field.
Qed.

(** Majority voting, the first step of the readout: up on o_+ (and down on o_-, by
    [readout_step_symmetric]). *)
Theorem majority_readout_step :
  readout_step L population 0
  = (INR own - INR other) / (2 * INR L)
    * (1 / 2 + distance_weight L * (INR own + INR other - 1) / (INR L * (INR L - 1)))
  /\ 0 < readout_step L population 0.
Proof.
  assert (L3' : 3 <= INR L) by (apply (le_INR 3) in L3; simpl in L3; lra).
  assert (value : readout_step L population 0
    = (INR own - INR other) / (2 * INR L)
      * (1 / 2 + distance_weight L * (INR own + INR other - 1) / (INR L * (INR L - 1)))).
  { unfold readout_step.
    rewrite (mean_ext population _
      (fun X => / 2 * (readout_slope L X 0 - readout_slope L X 1)))
      by (intros; rewrite exchanged_readout_slope; simpl; field).
    rewrite mean_scal, mean_minus, (mean_readout_slope 0 own), (mean_readout_slope 1 other)
      by apply M.
    field. lra. }
  split; [easy|]. rewrite value. pose proof (lt_INR _ _ more).
  apply Rmult_lt_0_compat; [apply Rdiv_lt_0_compat; lra|].
  assert (0 <= distance_weight L).
  { apply sum_nonneg. intros l _. apply sum_nonneg. intros s _. apply pow_le. lra. }
  assert (0 <= INR own + INR other - 1).
  { rewrite <- plus_INR. enough (1 <= INR (own + other)) by lra. apply (le_INR 1). lia. }
  enough (0 <= distance_weight L * (INR own + INR other - 1) / (INR L * (INR L - 1))) by lra.
  apply Rdiv_le_0_compat; [now apply Rmult_le_pos|]. apply Rmult_lt_0_compat; lra.
Qed.

End Majority.
