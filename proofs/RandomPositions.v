(** Tokens at random positions: what is expected at three different positions follows from the
    numbers of tokens alone. *)

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
