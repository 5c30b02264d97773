(** Majority voting: the signs of one population gradient step (docs/dynamics.md).

    [own] tokens carry o_+ and [other] tokens o_-, at random positions among L; the rest are
    irrelevant features. *)

From Coq Require Import Reals Lra Lia List Permutation FinFun.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation.
Import ListNotations.
Open Scope R_scope.

(** Positions p and q exchanged. *)
Definition transpose (p q r : nat) : nat :=
  if (r =? p)%nat then q else if (r =? q)%nat then p else r.

(** Random positions: what is found at three positions does not change in distribution when two
    positions are exchanged. *)
Definition exchangeable (L : nat) (population : list sequence) : Prop :=
  forall (f g h : nat -> R) s j l p q,
    (s < L)%nat -> (j < L)%nat -> (l < L)%nat -> (p < L)%nat -> (q < L)%nat ->
    mean population (fun X => f (X s) * g (X j) * h (X l))
    = mean population (fun X => f (X (transpose p q s)) * g (X (transpose p q j))
                                * h (X (transpose p q l))).

Record majority (L own other : nat) (population : list sequence) : Prop := {
  some_sequence : population <> [];
  own_tokens : forall X, In X population -> number 0 X L = INR own;
  other_tokens : forall X, In X population -> number 1 X L = INR other;
  random_positions : exchangeable L population
}.

(** ** Three different positions *)

(** 1 if s, j and l are all different, else 0. *)
Definition different (s j l : nat) : R :=
  1 - same s j - same s l - same j l + 2 * (same s j * same j l).

Lemma different_spec s j l :
  (s <> j -> s <> l -> j <> l -> different s j l = 1)
  /\ (s = j \/ s = l \/ j = l -> different s j l = 0).
Proof.
  unfold different. split.
  - intros a b c. rewrite !same_diff by easy. ring.
  - intros [->|[->| ->]]; rewrite ?same_self.
    + destruct (same_cases j l) as [->|[-> ->]]; ring.
    + destruct (same_cases l j) as [E|[-> E]]; rewrite E, ?same_self; [|ring].
      replace (same j l) with 0; [ring|]. symmetry. unfold same in *.
      rewrite Nat.eqb_sym. destruct (l =? j)%nat; [lra | easy].
    + destruct (same_cases s l) as [->|[-> ->]]; ring.
Qed.

Lemma sum_same n f s : (s < n)%nat -> \sum_(j < n) (same s j * f j) = f s.
Proof.
  intros sn. rewrite (sum_single n _ s sn), same_self; [ring|].
  intros k _ ne. rewrite same_diff by congruence. ring.
Qed.

(** The sum over different positions, by inclusion and exclusion. *)
Lemma sum_different n (f g h : nat -> R) :
  \sum_(s < n) \sum_(j < n) \sum_(l < n) (different s j l * (f s * g j * h l))
  = sum n f * sum n g * sum n h
    - \sum_(s < n) (f s * g s) * sum n h
    - \sum_(s < n) (f s * h s) * sum n g
    - \sum_(s < n) (g s * h s) * sum n f
    + 2 * \sum_(s < n) (f s * g s * h s).
Proof.
  transitivity (\sum_(s < n) (f s * sum n g * sum n h - f s * g s * sum n h - f s * h s * sum n g
    - f s * \sum_(j < n) (g j * h j) + 2 * (f s * g s * h s))).
  - apply sum_ext. intros s sn.
    transitivity (\sum_(j < n) (f s * g j * sum n h - same s j * (f s * g j * sum n h)
      - f s * h s * g j - f s * (g j * h j) + 2 * (same s j * (f s * g j * h j)))).
    + apply sum_ext. intros j jn. unfold different.
      rewrite (sum_ext n _ (fun l => f s * g j * h l - (same s j * (f s * g j)) * h l
        - same s l * (f s * g j * h l) - same j l * (f s * g j * h l)
        + 2 * same s j * (same j l * (f s * g j * h l)))) by (intros; ring).
      rewrite sum_plus, !sum_minus, !sum_scal, !sum_same by easy. ring.
    + rewrite sum_plus, !sum_minus, !sum_scal, sum_scal_r.
      rewrite sum_scal, !sum_same by easy. ring.
  - rewrite sum_plus, !sum_minus, !sum_scal_r, sum_scal. ring.
Qed.

Lemma sum_different_one n :
  \sum_(s < n) \sum_(j < n) \sum_(l < n) different s j l
  = INR n * (INR n - 1) * (INR n - 2).
Proof.
  rewrite (sum_ext n _ (fun s => \sum_(j < n) \sum_(l < n) (different s j l * (1 * 1 * 1))))
    by (intros; apply sum_ext; intros; apply sum_ext; intros; ring).
  rewrite (sum_different n (fun _ => 1) (fun _ => 1) (fun _ => 1)).
  rewrite (sum_ext n (fun s => 1 * 1 * 1) (fun _ => 1)) by (intros; ring).
  rewrite !(sum_ext n (fun s => 1 * 1) (fun _ => 1)) by (intros; ring).
  rewrite !sum_const. ring.
Qed.

Lemma transpose_l p q : transpose p q p = q.
Proof. unfold transpose. now rewrite Nat.eqb_refl. Qed.

Lemma transpose_other p q r : r <> p -> r <> q -> transpose p q r = r.
Proof.
  intros a b. unfold transpose. apply Nat.eqb_neq in a, b. now rewrite a, b.
Qed.

Lemma transpose_involutive p q r : transpose p q (transpose p q r) = r.
Proof.
  unfold transpose. destruct (Nat.eqb_spec r p) as [->|a].
  - rewrite Nat.eqb_refl. now destruct (Nat.eqb_spec q p) as [->|].
  - destruct (Nat.eqb_spec r q) as [->|b].
    + now rewrite Nat.eqb_refl.
    + apply Nat.eqb_neq in a, b. now rewrite a, b.
Qed.

Lemma transpose_below L p q r : (p < L)%nat -> (q < L)%nat -> (r < L)%nat -> (transpose p q r < L)%nat.
Proof.
  intros. unfold transpose. destruct (r =? p)%nat; [easy|]. now destruct (r =? q)%nat.
Qed.

Lemma transpose_injective p q r r' : transpose p q r = transpose p q r' -> r = r'.
Proof.
  intros E. rewrite <- (transpose_involutive p q r), E. apply transpose_involutive.
Qed.

Section Exchangeable.

Variables (L : nat) (population : list sequence).
Hypotheses (L3 : (3 <= L)%nat) (E : exchangeable L population).

Definition triple (f g h : nat -> R) (s j l : nat) : R :=
  mean population (fun X => f (X s) * g (X j) * h (X l)).

Lemma triple_constant f g h s j l :
  (s < L)%nat -> (j < L)%nat -> (l < L)%nat -> s <> j -> s <> l -> j <> l ->
  triple f g h s j l = triple f g h 0 1 2.
Proof.
  intros sL jL lL sj sl jl. unfold triple.
  rewrite (E f g h s j l s 0%nat) by (try easy; lia). rewrite transpose_l.
  set (j' := transpose s 0 j). set (l' := transpose s 0 l).
  assert (j'L : (j' < L)%nat) by (apply transpose_below; lia).
  assert (l'L : (l' < L)%nat) by (apply transpose_below; lia).
  assert (j'0 : j' <> 0%nat).
  { unfold j'. intros H. apply sj. apply (transpose_injective s 0). now rewrite transpose_l. }
  assert (l'0 : l' <> 0%nat).
  { unfold l'. intros H. apply sl. apply (transpose_injective s 0). now rewrite transpose_l. }
  assert (j'l' : j' <> l') by (intros H; apply jl; now apply (transpose_injective s 0)).
  rewrite (E f g h 0%nat j' l' j' 1%nat) by (try easy; lia).
  rewrite transpose_l, (transpose_other j' 1 0) by lia.
  set (l'' := transpose j' 1 l').
  assert (l''L : (l'' < L)%nat) by (apply transpose_below; lia).
  assert (l''0 : l'' <> 0%nat).
  { unfold l''. intros H. apply l'0. apply (transpose_injective j' 1).
    rewrite H. symmetry. apply transpose_other; lia. }
  assert (l''1 : l'' <> 1%nat).
  { unfold l''. intros H. apply j'l'. apply (transpose_injective j' 1).
    now rewrite transpose_l. }
  rewrite (E f g h 0%nat 1%nat l'' l'' 2%nat) by (try easy; lia).
  now rewrite transpose_l, (transpose_other l'' 2 0), (transpose_other l'' 2 1) by lia.
Qed.

(** The mean at three different positions, from the numbers of tokens. *)
Lemma triple_mean f g h s j l :
  (s < L)%nat -> (j < L)%nat -> (l < L)%nat -> s <> j -> s <> l -> j <> l ->
  INR L * (INR L - 1) * (INR L - 2) * triple f g h s j l
  = mean population (fun X =>
      \sum_(s < L) \sum_(j < L) \sum_(l < L) (different s j l * (f (X s) * g (X j) * h (X l)))).
Proof.
  intros sL jL lL sj sl jl. rewrite (triple_constant f g h s j l) by easy.
  rewrite <- sum_different_one, mean_sum, <- sum_scal_r. apply sum_ext. intros s' s'L.
  rewrite mean_sum, <- sum_scal_r. apply sum_ext. intros j' j'L.
  rewrite mean_sum, <- sum_scal_r. apply sum_ext. intros l' l'L. rewrite mean_scal.
  fold (triple f g h s' j' l').
  destruct (Nat.eq_dec s' j') as [e|ne1];
    [destruct (different_spec s' j' l') as [_ ->]; [ring | auto]|].
  destruct (Nat.eq_dec s' l') as [e|ne2];
    [destruct (different_spec s' j' l') as [_ ->]; [ring | auto]|].
  destruct (Nat.eq_dec j' l') as [e|ne3];
    [destruct (different_spec s' j' l') as [_ ->]; [ring | auto]|].
  rewrite (triple_constant f g h s' j' l') by easy. easy.
Qed.

(** The sum over s < j < l of 2^{-(l - s + 1)}. *)
Definition pair_weight (n : nat) : R :=
  \sum_(l < n) \sum_(s < l) ((1 / 2) ^ S (l - s) * INR (l - S s)).

Lemma mean_between c mark :
  mean population (fun X => between c mark X L)
  = pair_weight L * triple (of_feature c) mark (of_feature c) 0 1 2.
Proof.
  unfold between, pair_weight. rewrite mean_sum, <- sum_scal_r. apply sum_ext. intros l lL.
  rewrite mean_sum, <- sum_scal_r. apply sum_ext. intros s sl.
  rewrite (mean_ext population _ (fun X => \sum_(i < l - S s) ((1 / 2) ^ S (l - s)
    * (of_feature c (X s) * mark (X (S s + i)%nat) * of_feature c (X l))))).
  - rewrite mean_sum, Rmult_assoc, <- sum_const, <- sum_scal. apply sum_ext. intros i il.
    rewrite mean_scal. f_equal.
    apply (triple_constant (of_feature c) mark (of_feature c)); lia.
  - intros X _. unfold of_feature. rewrite <- !sum_scal. apply sum_ext. intros. ring.
Qed.

End Exchangeable.

(** ** The weight of the pairs is below L / 2 *)

Lemma sum_index_halves n : \sum_(d < n) (INR d * (1 / 2) ^ d) = 2 - 2 * (INR n + 1) * (1 / 2) ^ n.
Proof.
  induction n as [|n IH]; [simpl; ring|]. cbn [sum]. rewrite IH, S_INR. simpl. field.
Qed.

Lemma pair_weight_bounds n : 0 <= pair_weight n <= INR n / 2.
Proof.
  assert (inner : forall l, 0 <= \sum_(s < l) ((1 / 2) ^ S (l - s) * INR (l - S s)) <= 1 / 2).
  { intros l. rewrite sum_reverse.
    rewrite (sum_ext l _ (fun d => / 4 * (INR d * (1 / 2) ^ d))).
    - rewrite sum_scal, sum_index_halves. split.
      + rewrite <- sum_index_halves. apply Rmult_le_pos; [lra|]. apply sum_nonneg. intros d _.
        apply Rmult_le_pos; [apply pos_INR | apply pow_le; lra].
      + pose proof (pow_le (1 / 2) l ltac:(lra)). pose proof (pos_INR l). nra.
    - intros d dl. replace (S (l - (l - 1 - d)))%nat with (S (S d)) by lia.
      replace (l - S (l - 1 - d))%nat with d by lia. simpl. field. }
  unfold pair_weight. split.
  - apply sum_nonneg. intros l _. apply inner.
  - unfold Rdiv. apply sum_le_const. intros l _. pose proof (inner l). lra.
Qed.

Lemma pair_weight_strict n : (0 < n)%nat -> pair_weight n < INR n / 2.
Proof.
  intros n0. destruct n as [|n]; [lia|]. clear n0.
  induction n as [|n IH]; [unfold pair_weight; simpl; lra|].
  assert (step : pair_weight (S (S n)) = pair_weight (S n)
    + \sum_(s < S n) ((1 / 2) ^ S (S n - s) * INR (S n - S s))) by easy.
  pose proof (pair_weight_bounds (S (S n))) as _.
  assert (inner : \sum_(s < S n) ((1 / 2) ^ S (S n - s) * INR (S n - S s)) <= 1 / 2).
  { rewrite sum_reverse.
    rewrite (sum_ext (S n) _ (fun d => / 4 * (INR d * (1 / 2) ^ d))).
    - rewrite sum_scal, sum_index_halves.
      pose proof (pow_le (1 / 2) (S n) ltac:(lra)). pose proof (pos_INR (S n)). nra.
    - intros d dl. replace (S (S n - (S n - 1 - d)))%nat with (S (S d)) by lia.
      replace (S n - S (S n - 1 - d))%nat with d by lia. simpl. field. }
  rewrite step, (S_INR (S n)). lra.
Qed.

Lemma pair_weight_pos n : (3 <= n)%nat -> 0 < pair_weight n.
Proof.
  intros n3. apply sum_pos.
  - intros l _. apply sum_nonneg. intros s _.
    apply Rmult_le_pos; [apply pow_le; lra | apply pos_INR].
  - exists 2%nat. split; [lia|]. simpl. lra.
Qed.

(** ** The signs *)

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

(** ** The population of the code: all sequences with these numbers of tokens *)

Definition as_sequence (w : list nat) (s : nat) : nat := nth s w 0%nat.

Definition has_numbers (own other : nat) (w : list nat) : bool :=
  ((count_occ Nat.eq_dec w 0 =? own) && (count_occ Nat.eq_dec w 1 =? other))%nat%bool.

(** Every sequence of L features out of d with [own] times o_+ and [other] times o_-. *)
Definition majority_population (L d own other : nat) : list sequence :=
  map as_sequence (filter (has_numbers own other) (words (seq 0 d) L)).

Definition exchange_positions (p q : nat) (w : list nat) : list nat :=
  map (fun r => nth (transpose p q r) w 0%nat) (seq 0 (length w)).

Lemma number_is_count c w : number c (as_sequence w) (length w) = INR (count_occ Nat.eq_dec w c).
Proof.
  unfold number, as_sequence. induction w as [|a w IH]; [easy|].
  cbn [length]. rewrite sum_first. simpl nth. rewrite IH. simpl count_occ.
  destruct (Nat.eq_dec a c) as [->|ne].
  - rewrite same_self, S_INR. ring.
  - rewrite same_diff by easy. ring.
Qed.

Lemma nth_map_seq {A} (f : nat -> A) n r default :
  (r < n)%nat -> nth r (map f (seq 0 n)) default = f r.
Proof.
  intros rn. rewrite (nth_indep _ default (f 0%nat)) by (rewrite map_length, seq_length; easy).
  rewrite map_nth, seq_nth by easy. easy.
Qed.

Lemma exchange_positions_nth p q w r :
  (r < length w)%nat -> nth r (exchange_positions p q w) 0%nat = nth (transpose p q r) w 0%nat.
Proof. intros rw. unfold exchange_positions. now rewrite nth_map_seq. Qed.

Lemma exchange_positions_length p q w : length (exchange_positions p q w) = length w.
Proof. unfold exchange_positions. now rewrite map_length, seq_length. Qed.

Lemma exchange_positions_involutive p q w :
  (p < length w)%nat -> (q < length w)%nat ->
  exchange_positions p q (exchange_positions p q w) = w.
Proof.
  intros pw qw. apply (nth_ext _ _ 0%nat 0%nat); [now rewrite !exchange_positions_length|].
  intros r rw. rewrite !exchange_positions_length in rw.
  rewrite exchange_positions_nth by now rewrite exchange_positions_length.
  rewrite exchange_positions_nth by now apply transpose_below.
  now rewrite transpose_involutive.
Qed.

Lemma exchange_positions_permutes p q w :
  (p < length w)%nat -> (q < length w)%nat -> Permutation w (exchange_positions p q w).
Proof.
  intros pw qw. apply (Permutation_nth _ _ 0%nat). split; [now rewrite exchange_positions_length|].
  exists (transpose p q). split; [|split].
  - intros r rw. now apply transpose_below.
  - intros r r' _ _. apply transpose_injective.
  - intros r rw. now apply exchange_positions_nth.
Qed.

Lemma total_permutation {A} (f : A -> R) l l' : Permutation l l' -> total f l = total f l'.
Proof. induction 1; simpl; lra. Qed.

Lemma population_words L d own other w :
  In w (filter (has_numbers own other) (words (seq 0 d) L)) ->
  length w = L /\ count_occ Nat.eq_dec w 0%nat = own /\ count_occ Nat.eq_dec w 1%nat = other
  /\ List.Forall (fun a => In a (seq 0 d)) w.
Proof.
  intros I. apply filter_In in I. destruct I as [I N]. apply words_spec in I.
  unfold has_numbers in N. apply andb_prop in N. destruct N as [N0 N1].
  apply Nat.eqb_eq in N0, N1. easy.
Qed.

Lemma exchange_stays L d own other p q w :
  (p < L)%nat -> (q < L)%nat ->
  In w (filter (has_numbers own other) (words (seq 0 d) L)) ->
  In (exchange_positions p q w) (filter (has_numbers own other) (words (seq 0 d) L)).
Proof.
  intros pL qL I. destruct (population_words L d own other w I) as [Lw [N0 [N1 F]]].
  assert (P : Permutation w (exchange_positions p q w))
    by (apply exchange_positions_permutes; now rewrite Lw).
  apply filter_In. split.
  - apply words_spec. rewrite exchange_positions_length. split; [easy|].
    now apply (Permutation_Forall P).
  - unfold has_numbers.
    rewrite <- (proj1 (Permutation_count_occ Nat.eq_dec w _) P 0%nat).
    rewrite <- (proj1 (Permutation_count_occ Nat.eq_dec w _) P 1%nat).
    now rewrite N0, N1, !Nat.eqb_refl.
Qed.

(** The theorems on majority voting hold for the population of the code. *)
Theorem majority_population_is_majority L d own other :
  (0 < d)%nat -> majority_population L d own other <> [] ->
  majority L own other (majority_population L d own other).
Proof.
  intros d0 ne. set (W := filter (has_numbers own other) (words (seq 0 d) L)).
  assert (letters : seq 0 d <> []) by (destruct d; [lia | easy]).
  split; [easy | | |].
  - intros X I. apply in_map_iff in I. destruct I as [w [<- I]].
    apply population_words in I. destruct I as [<- [<- _]]. apply number_is_count.
  - intros X I. apply in_map_iff in I. destruct I as [w [<- I]].
    apply population_words in I. destruct I as [<- [_ [<- _]]]. apply number_is_count.
  - intros f g h s j l p q sL jL lL pL qL. unfold majority_population. fold W.
    rewrite !mean_map.
    assert (P : Permutation (map (exchange_positions p q) W) W).
    { assert (ND : NoDup W) by apply NoDup_filter, words_NoDup, seq_NoDup.
      apply NoDup_Permutation; [| easy |].
      - apply (NoDup_map_inv (exchange_positions p q)). rewrite map_map.
        rewrite (map_ext_in _ (fun w => w)); [now rewrite map_id|].
        intros w I. destruct (population_words L d own other w I) as [Lw _].
        apply exchange_positions_involutive; now rewrite Lw.
      - intros w. split; intros I.
        + apply in_map_iff in I. destruct I as [v [<- I]]. now apply exchange_stays.
        + apply in_map_iff. exists (exchange_positions p q w).
          destruct (population_words L d own other w I) as [Lw _].
          split; [apply exchange_positions_involutive; now rewrite Lw | now apply exchange_stays]. }
    unfold mean. f_equal. rewrite <- (total_permutation _ _ _ P), total_map.
    apply total_ext. intros w I. destruct (population_words L d own other w I) as [Lw _].
    unfold as_sequence. rewrite !exchange_positions_nth by (rewrite Lw; easy). easy.
Qed.

(** There is such a sequence whenever the tokens fit and, where some are left over, an irrelevant
    feature exists. *)
Theorem majority_population_not_empty L d own other :
  (2 <= d)%nat -> (own + other <= L)%nat -> (own + other < L -> 3 <= d)%nat ->
  majority_population L d own other <> [].
Proof.
  intros d2 fit room E.
  set (w := repeat 0%nat own ++ repeat 1%nat other ++ repeat 2%nat (L - own - other)).
  assert (I : In w (filter (has_numbers own other) (words (seq 0 d) L))).
  { apply filter_In. split.
    - apply words_spec. unfold w. rewrite !app_length, !repeat_length. split; [lia|].
      apply Forall_forall. intros a I. apply in_seq.
      apply in_app_or in I. destruct I as [I|I]; [apply repeat_spec in I; lia|].
      apply in_app_or in I. destruct I as [I|I]; [apply repeat_spec in I; lia|].
      assert (0 < L - own - other)%nat.
      { destruct (L - own - other)%nat; [easy | lia]. }
      apply repeat_spec in I. lia.
    - unfold has_numbers, w. rewrite !count_occ_app.
      assert (hit : forall x n, count_occ Nat.eq_dec (repeat x n) x = n)
        by (intros; now apply count_occ_repeat_eq).
      rewrite !hit, !count_occ_repeat_neq by easy. rewrite !Nat.add_0_r, !Nat.add_0_l.
      now rewrite !Nat.eqb_refl. }
  apply (in_map as_sequence) in I. unfold majority_population in E. now rewrite E in I.
Qed.
