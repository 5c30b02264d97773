(** The sums over steps (docs/bounds.md, "The sums over steps": Lemmas 1, 2 and 3).

    A model reads T tokens with steps delta_t in (0, D]; tau_t is the sum of the steps after
    token t. Tokens are counted from 0 here: t = 0, ..., T - 1. *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums.
Open Scope R_scope.

(** tau_t = sum over t < r of delta_r. *)
Definition tau (T : nat) (delta : nat -> R) (t : nat) : R :=
  \sum_(r < T) (if (t <? r)%nat then delta r else 0).

Definition steps_within (D : R) (T : nat) (delta : nat -> R) : Prop :=
  forall t, (t < T)%nat -> 0 < delta t <= D.

(** S1, S2 and S3. *)
Definition output_sum (s_A D : R) (T : nat) : R :=
  D * \sum_(k < T) exp (s_A * D * INR k).

Definition decaying_sum (s_A D : R) (T : nat) : R :=
  if Rlt_dec s_A 0
  then Rmin (INR (T - 1) * D) (3 / - s_A + D) / exp 1
  else INR (T - 1) * D / exp 1.

Definition absolute_sum (s_A D : R) (T : nat) : R :=
  if Rlt_dec s_A 0
  then Rmin (D ^ 2 * (INR T * (INR T - 1) / 2)) (1 / s_A ^ 2 + D / (exp 1 * - s_A))
  else D ^ 2 * \sum_(k < T) (INR k * exp (s_A * D * INR k)).

(** The largest |a| tau e^{a tau} over a <= min(s_A, 0): h(tau) in the docs. *)
Definition worst_decay (s_A x : R) : R :=
  if Rle_dec x 0 then 0
  else let y := Rmax 1 (Rmax 0 (- s_A) * x) in y * exp (- y).

(** ** Counting from the last token *)

(** With e_k the k-th step from the end, tau is the sum of e_0, ..., e_{k-1}. *)
Lemma tau_from_the_end T delta k :
  (k < T)%nat -> tau T delta (T - 1 - k) = \sum_(i < k) delta (T - 1 - i)%nat.
Proof.
  intros kT. unfold tau. rewrite sum_reverse.
  replace T with (k + (T - k))%nat at 1 by lia. rewrite sum_split.
  rewrite (sum_zero (T - k)), Rplus_0_r.
  - apply sum_ext. intros i ik. now replace (T - 1 - k <? T - 1 - i)%nat with true
      by (symmetry; apply Nat.ltb_lt; lia).
  - intros i iT. now replace (T - 1 - k <? T - 1 - (k + i))%nat with false
      by (symmetry; apply Nat.ltb_ge; lia).
Qed.

Lemma sum_from_the_end T delta (g : R -> R -> R) :
  \sum_(t < T) g (delta t) (tau T delta t)
  = \sum_(k < T) g (delta (T - 1 - k)%nat) (\sum_(i < k) delta (T - 1 - i)%nat).
Proof.
  rewrite sum_reverse. apply sum_ext. intros k kT. now rewrite tau_from_the_end.
Qed.

Lemma steps_from_the_end D T delta :
  steps_within D T delta -> steps_within D T (fun k => delta (T - 1 - k)%nat).
Proof. intros H k kT. apply H. lia. Qed.

Lemma elapsed_bounds D T e k :
  steps_within D T e -> (k <= T)%nat -> 0 <= sum k e <= D * INR k.
Proof.
  intros H kT. split.
  - apply sum_nonneg. intros i ik. destruct (H i); [lia | lra].
  - rewrite Rmult_comm. apply sum_le_const. intros i ik. apply H. lia.
Qed.

Lemma elapsed_pos D T e k :
  steps_within D T e -> (0 < k <= T)%nat -> 0 < sum k e.
Proof.
  intros H kT. apply sum_pos.
  - intros i ik. destruct (H i); [lia | lra].
  - exists O. split; [lia|]. apply H. lia.
Qed.

Lemma largest_step_pos D T delta : (0 < T)%nat -> steps_within D T delta -> 0 < D.
Proof. intros T0 H. destruct (H O T0). lra. Qed.

(** ** Facts about the exponential *)

Ltac nonzero := repeat split; try apply Rgt_not_eq, exp_pos; try lra.

Lemma exp_le x y : x <= y -> exp x <= exp y.
Proof. intros [H| ->]; [left; now apply exp_increasing | lra]. Qed.

Lemma exp_lt_1 x : x < 0 -> exp x < 1.
Proof. intros H. rewrite <- exp_0. now apply exp_increasing. Qed.

Lemma exp_le_1 x : x <= 0 -> exp x <= 1.
Proof. intros H. rewrite <- exp_0. now apply exp_le. Qed.

(** A chord lies above the exponential. *)
Lemma exp_chord l a b :
  0 <= l <= 1 -> exp (l * a + (1 - l) * b) <= l * exp a + (1 - l) * exp b.
Proof.
  intros Hl. set (m := l * a + (1 - l) * b).
  assert (tangent : forall x, exp m * (1 + (x - m)) <= exp x).
  { intros x. replace (exp x) with (exp m * exp (x - m))
      by (rewrite <- exp_plus; f_equal; lra).
    apply Rmult_le_compat_l; [left; apply exp_pos | apply exp_ineq1_le]. }
  pose proof (tangent a). pose proof (tangent b).
  apply Rle_trans with (l * (exp m * (1 + (a - m))) + (1 - l) * (exp m * (1 + (b - m)))).
  - right. unfold m. ring.
  - apply Rplus_le_compat; apply Rmult_le_compat_l; lra.
Qed.

Lemma exp_chord_strict l a b :
  0 < l < 1 -> a <> b -> exp (l * a + (1 - l) * b) < l * exp a + (1 - l) * exp b.
Proof.
  intros Hl ab. set (m := l * a + (1 - l) * b).
  assert (tangent : forall x, x <> m -> exp m * (1 + (x - m)) < exp x).
  { intros x xm. replace (exp x) with (exp m * exp (x - m))
      by (rewrite <- exp_plus; f_equal; lra).
    apply Rmult_lt_compat_l; [apply exp_pos | apply exp_ineq1; lra]. }
  assert (a <> m) by (unfold m; intros E; apply ab; nra).
  assert (b <> m) by (unfold m; intros E; apply ab; nra).
  pose proof (tangent a). pose proof (tangent b).
  apply Rle_lt_trans with (l * (exp m * (1 + (a - m))) + (1 - l) * (exp m * (1 + (b - m)))).
  - right. unfold m. ring.
  - apply Rplus_lt_compat; apply Rmult_lt_compat_l; auto; lra.
Qed.

(** x / (1 - e^{-sx}) increases: its value at x <= D is at most that at D. *)
Lemma decay_per_step s D x :
  0 < s -> 0 < x <= D -> x * (1 - exp (- s * D)) <= D * (1 - exp (- s * x)).
Proof.
  intros s0 [x0 xD]. pose proof (exp_chord (x / D) (- s * D) 0) as H.
  assert (0 <= x / D <= 1) as L.
  { split; [apply Rdiv_le_0_compat; lra|]. apply Rle_div_l; lra. }
  specialize (H L). rewrite exp_0 in H.
  replace (x / D * (- s * D) + (1 - x / D) * 0) with (- s * x) in H by (field; lra).
  apply Rmult_le_compat_l with (r := D) in H; [|lra].
  replace (D * (x / D * exp (- s * D) + (1 - x / D) * 1))
    with (x * exp (- s * D) + D - x) in H by (field; lra).
  lra.
Qed.

Lemma decay_per_step_strict s D x :
  0 < s -> 0 < x < D -> x * (1 - exp (- s * D)) < D * (1 - exp (- s * x)).
Proof.
  intros s0 [x0 xD]. pose proof (exp_chord_strict (x / D) (- s * D) 0) as H.
  assert (0 < x / D < 1) as L.
  { split; [apply Rdiv_lt_0_compat; lra|]. apply Rlt_div_l; lra. }
  assert (- s * D <> 0) as N by nra. specialize (H L N). rewrite exp_0 in H.
  replace (x / D * (- s * D) + (1 - x / D) * 0) with (- s * x) in H by (field; lra).
  apply Rmult_lt_compat_l with (r := D) in H; [|lra].
  replace (D * (x / D * exp (- s * D) + (1 - x / D) * 1))
    with (x * exp (- s * D) + D - x) in H by (field; lra).
  lra.
Qed.

(** y e^{-y} peaks at y = 1 and falls from there. *)
Lemma peak y : y * exp (- y) <= / exp 1.
Proof.
  pose proof (exp_ineq1_le (y - 1)) as H.
  apply Rle_trans with (exp (y - 1) * exp (- y)).
  - apply Rmult_le_compat_r; [left; apply exp_pos | lra].
  - rewrite <- exp_plus, <- exp_Ropp. right. f_equal. lra.
Qed.

Lemma past_the_peak x y : 1 <= x <= y -> y * exp (- y) <= x * exp (- x).
Proof.
  intros [x1 xy]. pose proof (exp_ineq1_le (y - x)) as H.
  replace (x * exp (- x)) with (x * exp (y - x) * exp (- y))
    by (rewrite Rmult_assoc, <- exp_plus; f_equal; f_equal; lra).
  apply Rmult_le_compat_r; [left; apply exp_pos|]. nra.
Qed.

Lemma before_the_peak x y : 0 <= x -> x <= y <= 1 -> x * exp (- x) <= y * exp (- y).
Proof.
  intros x0 [xy y1]. pose proof (exp_ineq1_le (x - y)) as H.
  replace (y * exp (- y)) with (y * exp (x - y) * exp (- x))
    by (rewrite Rmult_assoc, <- exp_plus; f_equal; f_equal; lra).
  apply Rmult_le_compat_r; [left; apply exp_pos|]. nra.
Qed.

(** A function grows at least as much as the least slope on the way. *)
Lemma increase_at_least (f df : R -> R) a b m :
  a <= b -> (forall x, a <= x <= b -> is_derive f x (df x)) ->
  (forall x, a <= x <= b -> m <= df x) -> m * (b - a) <= f b - f a.
Proof.
  intros ab D M. destruct (MVT_gen f a b df) as [c [Hc E]].
  - intros x. rewrite Rmin_left, Rmax_right by lra. intros. apply D. lra.
  - intros x. rewrite Rmin_left, Rmax_right by lra. intros Hx.
    apply continuity_pt_filterlim, (ex_derive_continuous f).
    exists (df x). now apply D.
  - rewrite Rmin_left, Rmax_right in Hc by lra. rewrite E.
    apply Rmult_le_compat_r; [lra | now apply M].
Qed.

(** ** Lemma 1 *)

Section FromTheEnd.

Variables (D : R) (T : nat) (e : nat -> R).
Hypothesis within : steps_within D T e.

(** e_k e^{-s tau_k} is at most the decay of e^{-s tau} over that step, in proportion. *)
Lemma one_decaying_step s k :
  0 < s -> (k < T)%nat ->
  e k * exp (- s * sum k e) * (1 - exp (- s * D))
  <= D * (exp (- s * sum k e) - exp (- s * sum (S k) e)).
Proof.
  intros s0 kT. destruct (within k kT) as [e0 eD].
  replace (exp (- s * sum (S k) e)) with (exp (- s * sum k e) * exp (- s * e k))
    by (rewrite <- exp_plus; f_equal; simpl; lra).
  pose proof (decay_per_step s D (e k) s0 (conj e0 eD)).
  pose proof (exp_pos (- s * sum k e)). nra.
Qed.

Lemma one_decaying_step_strict s k :
  0 < s -> (k < T)%nat -> e k <> D ->
  e k * exp (- s * sum k e) * (1 - exp (- s * D))
  < D * (exp (- s * sum k e) - exp (- s * sum (S k) e)).
Proof.
  intros s0 kT ne. destruct (within k kT) as [e0 eD].
  replace (exp (- s * sum (S k) e)) with (exp (- s * sum k e) * exp (- s * e k))
    by (rewrite <- exp_plus; f_equal; simpl; lra).
  assert (e k < D) as lt by lra.
  pose proof (decay_per_step_strict s D (e k) s0 (conj e0 lt)).
  pose proof (exp_pos (- s * sum k e)). nra.
Qed.

Lemma telescoped s n :
  \sum_(k < n) (D * (exp (- s * sum k e) - exp (- s * sum (S k) e)))
  = D * (1 - exp (- s * sum n e)).
Proof.
  rewrite sum_scal. f_equal.
  rewrite (sum_ext n _ (fun k => (- exp (- s * sum (S k) e)) - (- exp (- s * sum k e))))
    by (intros; lra).
  rewrite (sum_telescope n (fun k => - exp (- s * sum k e))). simpl.
  rewrite Rmult_0_r, exp_0. lra.
Qed.

Lemma geometric_at s n : (1 - exp (- s * D)) * \sum_(k < n) exp (- s * D * INR k)
  = 1 - exp (- s * D * INR n).
Proof.
  rewrite (sum_ext n _ (fun k => exp (- s * D) ^ k)) by (intros; apply exp_INR).
  now rewrite sum_geometric, exp_INR.
Qed.

Lemma decaying_steps_bound s :
  0 < s -> (0 < T)%nat ->
  \sum_(k < T) (e k * exp (- s * sum k e)) * (1 - exp (- s * D))
  <= D * \sum_(k < T) exp (- s * D * INR k) * (1 - exp (- s * D)).
Proof.
  intros s0 T0. rewrite (Rmult_assoc D), (Rmult_comm (\sum_(k < T) exp _)), geometric_at.
  rewrite <- sum_scal_r.
  apply Rle_trans with (D * (1 - exp (- s * sum T e))).
  - rewrite <- telescoped. apply sum_le. intros k kT. now apply one_decaying_step.
  - apply Rmult_le_compat_l; [left; eapply largest_step_pos; eauto|].
    destruct (elapsed_bounds D T e T within (le_n T)).
    assert (exp (- s * D * INR T) <= exp (- s * sum T e)) by (apply exp_le; nra). lra.
Qed.

Lemma growing_step s k :
  0 <= s -> (k < T)%nat -> e k * exp (s * sum k e) <= D * exp (s * D * INR k).
Proof.
  intros s0 kT. destruct (within k kT) as [e0 eD].
  destruct (elapsed_bounds D T e k within) as [_ up]; [lia|].
  apply Rmult_le_compat; [lra | left; apply exp_pos | lra | apply exp_le; nra].
Qed.

Lemma growing_step_strict s k :
  0 <= s -> (k < T)%nat -> e k <> D -> e k * exp (s * sum k e) < D * exp (s * D * INR k).
Proof.
  intros s0 kT ne. destruct (within k kT) as [e0 eD].
  destruct (elapsed_bounds D T e k within) as [_ up]; [lia|].
  pose proof (exp_pos (s * sum k e)).
  assert (exp (s * sum k e) <= exp (s * D * INR k)) by (apply exp_le; nra). nra.
Qed.

Lemma steps_bound s_A : \sum_(k < T) (e k * exp (s_A * sum k e)) <= output_sum s_A D T.
Proof.
  destruct (Nat.eq_dec T 0) as [T0|T0].
  { unfold output_sum. replace T with O. simpl. lra. }
  assert (0 < D) as D0 by (apply (largest_step_pos D T e); [lia | easy]).
  unfold output_sum. destruct (Rlt_le_dec s_A 0) as [neg|pos].
  - apply Rmult_le_reg_r with (1 - exp (s_A * D)).
    + pose proof (exp_lt_1 (s_A * D)). assert (s_A * D < 0) by nra. lra.
    + replace s_A with (- - s_A) by lra. apply decaying_steps_bound; [lra | lia].
  - rewrite <- sum_scal. apply sum_le. intros k kT. now apply growing_step.
Qed.

Lemma steps_bound_strict s_A :
  (exists k, (k < T)%nat /\ e k <> D) ->
  \sum_(k < T) (e k * exp (s_A * sum k e)) < output_sum s_A D T.
Proof.
  intros [j [jT ne]]. assert (0 < D) as D0 by (apply (largest_step_pos D T e); [lia | easy]).
  unfold output_sum. destruct (Rlt_le_dec s_A 0) as [neg|pos].
  - pose proof (exp_lt_1 (s_A * D)). assert (s_A * D < 0) as sD by nra.
    apply Rmult_lt_reg_r with (1 - exp (s_A * D)); [lra|].
    rewrite (Rmult_assoc D), (Rmult_comm (\sum_(k < T) exp _)).
    replace s_A with (- - s_A) by lra. rewrite geometric_at, <- sum_scal_r.
    apply Rlt_le_trans with (D * (1 - exp (- - s_A * sum T e))).
    + rewrite <- telescoped. apply sum_lt.
      * intros k kT. apply one_decaying_step; [lra | easy].
      * exists j. split; [easy|]. apply one_decaying_step_strict; [lra | easy | easy].
    + apply Rmult_le_compat_l; [lra|].
      destruct (elapsed_bounds D T e T within (le_n T)).
      assert (exp (- - s_A * D * INR T) <= exp (- - s_A * sum T e)) by (apply exp_le; nra). lra.
  - rewrite <- sum_scal. apply sum_lt.
    + intros k kT. now apply growing_step.
    + exists j. split; [easy|]. now apply growing_step_strict.
Qed.

End FromTheEnd.

(** Lemma 1. For every s_A, the sum over t of delta_t e^{s_A tau_t} is at most
    S1 = D (sum over k < T of e^{s_A D k}). *)
Theorem lemma_1 s_A D T delta :
  steps_within D T delta ->
  \sum_(t < T) (delta t * exp (s_A * tau T delta t)) <= output_sum s_A D T.
Proof.
  intros H. rewrite (sum_from_the_end T delta (fun d x => d * exp (s_A * x))).
  apply (steps_bound D T (fun k => delta (T - 1 - k)%nat)). now apply steps_from_the_end.
Qed.

(** Lemma 1, equality: S1 is reached by constant steps D and by no others. *)
Theorem lemma_1_equality s_A D T delta :
  steps_within D T delta ->
  \sum_(t < T) (delta t * exp (s_A * tau T delta t)) = output_sum s_A D T
  <-> (forall t, (t < T)%nat -> delta t = D).
Proof.
  intros H. rewrite (sum_from_the_end T delta (fun d x => d * exp (s_A * x))). split.
  - intros E t tT. destruct (Req_dec (delta t) D) as [|ne]; [easy | exfalso].
    assert (\sum_(k < T) (delta (T - 1 - k)%nat
              * exp (s_A * \sum_(i < k) delta (T - 1 - i)%nat)) < output_sum s_A D T); [|lra].
    apply (steps_bound_strict D T (fun k => delta (T - 1 - k)%nat)).
    + now apply steps_from_the_end.
    + exists (T - 1 - t)%nat. split; [lia|]. now replace (T - 1 - (T - 1 - t))%nat with t by lia.
  - intros E. unfold output_sum. rewrite <- sum_scal. apply sum_ext. intros k kT.
    rewrite E by lia. f_equal. f_equal. rewrite (sum_ext k _ (fun _ => D)) by (intros; apply E; lia).
    rewrite sum_const. ring.
Qed.

(** Lemma 1, the geometric sum for s_A < 0: S1 = D (1 - e^{s_A T D}) / (1 - e^{s_A D}). *)
Theorem lemma_1_geometric s_A D T :
  s_A < 0 -> 0 < D ->
  output_sum s_A D T = D * ((1 - exp (s_A * (INR T * D))) / (1 - exp (s_A * D))).
Proof.
  intros s0 D0. assert (s_A * D < 0) by nra. pose proof (exp_lt_1 (s_A * D)).
  pose proof (geometric_at D (- s_A) T) as G. rewrite Ropp_involutive in G.
  replace (s_A * (INR T * D)) with (s_A * D * INR T) by ring.
  unfold output_sum. rewrite <- G. field. lra.
Qed.

(** S1 for s_A < 0 stays below D / (1 - e^{s_A D}) <= 1 / |s_A| + D, whatever the length. *)
Theorem lemma_1_all_lengths s_A D T :
  s_A < 0 -> 0 < D ->
  output_sum s_A D T < D / (1 - exp (s_A * D)) <= 1 / - s_A + D.
Proof.
  intros s0 D0. assert (s_A * D < 0) by nra. pose proof (exp_lt_1 (s_A * D)). split.
  - rewrite lemma_1_geometric by easy. unfold Rdiv.
    apply Rmult_lt_compat_l; [easy|].
    rewrite <- (Rmult_1_l (/ (1 - exp (s_A * D)))) at 2.
    apply Rmult_lt_compat_r; [apply Rinv_0_lt_compat; lra|].
    pose proof (exp_pos (s_A * (INR T * D))). lra.
  - apply Rle_div_l; [lra|].
    replace ((1 / - s_A + D) * (1 - exp (s_A * D)))
      with ((1 - s_A * D) * (1 - exp (s_A * D)) / - s_A) by (field; lra).
    apply Rle_div_r; [lra|].
    pose proof (exp_ineq1_le (- (s_A * D))) as I. rewrite exp_Ropp in I.
    pose proof (exp_pos (s_A * D)) as E0.
    assert ((1 - s_A * D) * exp (s_A * D) <= 1); [|lra].
    apply Rmult_le_reg_r with (/ exp (s_A * D)); [now apply Rinv_0_lt_compat|].
    rewrite Rmult_assoc, Rinv_r by lra. lra.
Qed.

(** The marginal case: S1 = T D for s_A = 0. *)
Theorem lemma_1_marginal D T : output_sum 0 D T = INR T * D.
Proof.
  unfold output_sum. rewrite (sum_ext T _ (fun _ => 1)), sum_const; [ring|].
  intros k _. rewrite Rmult_0_l, Rmult_0_l. apply exp_0.
Qed.
