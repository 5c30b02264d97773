(** Limits of the step sums, and the closed forms that the code evaluates
    (docs/bounds.md, "The sums over steps" and "Published form"). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums StepSums DecayingSums.
Open Scope R_scope.

(** ** T to infinity *)

(** S1 tends to D / (1 - e^{s_A D}) for s_A < 0. *)
Theorem output_sum_long s_A D :
  s_A < 0 -> 0 < D -> is_lim_seq (output_sum s_A D) (D / (1 - exp (s_A * D))).
Proof.
  intros s0 D0. assert (neg : s_A * D < 0) by nra. pose proof (exp_lt_1 _ neg) as lt.
  pose proof (exp_pos (s_A * D)).
  apply is_lim_seq_ext with (fun T => D / (1 - exp (s_A * D)) * (1 - exp (s_A * D) ^ T)).
  - intros T. rewrite lemma_1_geometric by easy.
    replace (s_A * (INR T * D)) with (s_A * D * INR T) by ring. rewrite exp_INR. field. lra.
  - replace (D / (1 - exp (s_A * D))) with (D / (1 - exp (s_A * D)) * (1 - 0)) at 1
      by (field; lra).
    apply (is_lim_seq_scal_l _ (D / (1 - exp (s_A * D))) (1 - 0)).
    apply is_lim_seq_minus'; [apply is_lim_seq_const|].
    apply is_lim_seq_geom. rewrite Rabs_pos_eq; lra.
Qed.

(** S1 grows without bound for s_A >= 0. *)
Theorem output_sum_long_unstable s_A D :
  0 <= s_A -> 0 < D -> is_lim_seq (output_sum s_A D) p_infty.
Proof.
  intros s0 D0. apply is_lim_seq_le_p_loc with (fun T => D * INR T).
  - exists O. intros T _. unfold output_sum. apply Rmult_le_compat_l; [lra|].
    rewrite <- (Rmult_1_r (INR T)), <- sum_const. apply sum_le. intros k _.
    rewrite <- exp_0. apply exp_le. pose proof (pos_INR k). assert (0 <= s_A * D) by nra. nra.
  - replace p_infty with (Rbar_mult D p_infty).
    + apply is_lim_seq_scal_l, is_lim_seq_INR.
    + simpl. destruct (Rle_dec 0 D) as [le|]; [|exfalso; lra].
      destruct (Rle_lt_or_eq_dec 0 D le); [easy | exfalso; lra].
Qed.

Lemma eventually_above M : eventually (fun T => M <= INR T).
Proof.
  pose proof is_lim_seq_INR as H. apply is_lim_seq_spec in H. destruct (H M) as [n Hn].
  exists n. intros T le. left. now apply Hn.
Qed.

(** S2 equals (3/s + D) / e from some length on, for s_A < 0. *)
Theorem decaying_sum_long s_A D :
  s_A < 0 -> 0 < D -> is_lim_seq (decaying_sum s_A D) ((3 / - s_A + D) / exp 1).
Proof.
  intros s0 D0. apply is_lim_seq_ext_loc with (fun _ => (3 / - s_A + D) / exp 1);
    [|apply is_lim_seq_const].
  destruct (eventually_above ((3 / - s_A + D) / D + 1)) as [n Hn].
  exists (S n). intros T le. unfold decaying_sum. destruct (Rlt_dec s_A 0); [|easy].
  rewrite Rmin_right; [easy|]. specialize (Hn T ltac:(lia)).
  rewrite minus_INR by lia. simpl (INR 1).
  apply (Rle_div_l _ _ D); lra.
Qed.

(** S3 equals 1/s^2 + D / (e s) from some length on, for s_A < 0. *)
Theorem absolute_sum_long s_A D :
  s_A < 0 -> 0 < D -> is_lim_seq (absolute_sum s_A D) (1 / s_A ^ 2 + D / (exp 1 * - s_A)).
Proof.
  intros s0 D0. set (limit := 1 / s_A ^ 2 + D / (exp 1 * - s_A)).
  apply is_lim_seq_ext_loc with (fun _ => limit); [|apply is_lim_seq_const].
  destruct (eventually_above (Rmax 2 (limit * 2 / D ^ 2))) as [n Hn].
  exists n. intros T le. unfold absolute_sum. destruct (Rlt_dec s_A 0); [|easy].
  fold limit. rewrite Rmin_right; [easy|]. specialize (Hn T le).
  pose proof (Rmax_l 2 (limit * 2 / D ^ 2)). pose proof (Rmax_r 2 (limit * 2 / D ^ 2)) as M.
  assert (D2 : 0 < D ^ 2) by (apply pow_lt; lra).
  assert (limit * 2 <= INR T * D ^ 2) by (apply (Rle_div_l _ _ (D ^ 2)); lra). nra.
Qed.

(** ** s_A to 0, from both sides *)

Theorem output_sum_continuous s_A D T : continuous (fun s => output_sum s D T) s_A.
Proof.
  unfold output_sum. apply (continuous_scal_r D (fun s => \sum_(k < T) exp (s * D * INR k))).
  apply (continuous_sum T (fun k s => exp (s * D * INR k))). intros k _.
  apply (ex_derive_continuous (fun s => exp (s * D * INR k))). auto_derive. easy.
Qed.

(** S1 tends to T D. *)
Theorem output_sum_marginal D T : is_lim (fun s => output_sum s D T) 0 (INR T * D).
Proof.
  rewrite <- (lemma_1_marginal D T). apply is_lim_continuity, continuity_pt_filterlim.
  apply output_sum_continuous.
Qed.

(** Where s is small enough, the shorter of the two entries of each minimum is the first. *)
Lemma near_zero M : 0 < M -> Rbar_locally' 0 (fun s => s < 0 -> M <= / - s).
Proof.
  intros M0. exists (mkposreal (/ M) (Rinv_0_lt_compat M M0)). intros s B _ neg.
  unfold ball in B. simpl in B. unfold AbsRing_ball, abs, minus, plus, opp in B. simpl in B.
  rewrite Ropp_0, Rplus_0_r, Rabs_left in B by lra.
  rewrite <- (Rinv_inv M). apply Rinv_le_contravar; lra.
Qed.

(** S2 tends to (T - 1) D / e. *)
Theorem decaying_sum_marginal D T :
  0 < D -> is_lim (fun s => decaying_sum s D T) 0 (INR (T - 1) * D / exp 1).
Proof.
  intros D0. apply is_lim_ext_loc with (fun _ => INR (T - 1) * D / exp 1); [|apply is_lim_const].
  pose proof (pos_INR (T - 1)). assert (M0 : 0 < INR (T - 1) * D + 1) by nra.
  generalize (near_zero _ M0). apply filter_imp. intros s near. unfold decaying_sum.
  destruct (Rlt_dec s 0) as [neg|]; [|easy]. specialize (near neg).
  rewrite Rmin_left; [easy|]. unfold Rdiv. nra.
Qed.

(** S3 tends to D^2 T (T - 1) / 2. *)
Theorem absolute_sum_marginal D T :
  0 < D -> is_lim (fun s => absolute_sum s D T) 0 (D ^ 2 * (INR T * (INR T - 1) / 2)).
Proof.
  intros D0. set (value := D ^ 2 * (INR T * (INR T - 1) / 2)).
  set (growing := fun s => D ^ 2 * \sum_(k < T) (INR k * exp (s * D * INR k))).
  assert (right : is_lim growing 0 value).
  { replace value with (growing 0).
    - apply is_lim_continuity, continuity_pt_filterlim.
      apply (continuous_scal_r (D ^ 2) (fun s => \sum_(k < T) (INR k * exp (s * D * INR k)))).
      apply (continuous_sum T (fun k s => INR k * exp (s * D * INR k))). intros k _.
      apply (ex_derive_continuous (fun s => INR k * exp (s * D * INR k))). auto_derive. easy.
    - unfold growing, value. rewrite <- sum_INR. f_equal. apply sum_ext. intros k _.
      rewrite Rmult_0_l, Rmult_0_l, exp_0. ring. }
  apply is_lim_spec in right. apply is_lim_spec. intros eps.
  assert (M0 : 0 < Rabs value + 1) by (pose proof (Rabs_pos value); lra).
  generalize (filter_and _ _ (near_zero _ M0) (right eps)). apply filter_imp.
  intros s [near close]. unfold absolute_sum. destruct (Rlt_dec s 0) as [neg|]; [|easy].
  specialize (near neg). fold value. rewrite Rmin_left.
  - replace (value - value) with 0 by ring. rewrite Rabs_R0. apply eps.
  - replace (1 / s ^ 2) with (/ - s * / - s) by (field; lra).
    assert (0 < D / (exp 1 * - s)).
    { apply Rdiv_lt_0_compat; [lra|]. apply Rmult_lt_0_compat; [apply exp_pos | lra]. }
    pose proof (Rle_abs value). pose proof (Rabs_pos value). nra.
Qed.

(** ** Closed forms *)

Definition index_sum (rho : R) (T : nat) : R := \sum_(k < T) (INR k * rho ^ k).
Definition geometric_sum (rho : R) (T : nat) : R := \sum_(k < T) rho ^ k.

(** "Published form": the sum over k < T of k rho^k is
    rho (1 - rho^T) / (1 - rho)^2 - T rho^T / (1 - rho). *)
Theorem index_sum_closed rho T :
  rho <> 1 ->
  index_sum rho T = rho * (1 - rho ^ T) / (1 - rho) ^ 2 - INR T * rho ^ T / (1 - rho).
Proof.
  intros ne. unfold index_sum. apply Rmult_eq_reg_l with ((1 - rho) ^ 2).
  - rewrite sum_geometric_index. field. lra.
  - apply pow_nonzero. lra.
Qed.

(** With rho - 1 in the last denominator the closed form is not the sum, for any length T >= 1
    and any rho other than 0 and 1. *)
Theorem index_sum_misprint rho T :
  (0 < T)%nat -> rho <> 1 -> rho <> 0 ->
  index_sum rho T <> rho * (1 - rho ^ T) / (1 - rho) ^ 2 - INR T * rho ^ T / (rho - 1).
Proof.
  intros T0 ne ne0. rewrite index_sum_closed by easy.
  replace (INR T * rho ^ T / (rho - 1)) with (- (INR T * rho ^ T / (1 - rho))) by (field; lra).
  enough (INR T * rho ^ T / (1 - rho) <> 0) by lra.
  unfold Rdiv. apply Rmult_integral_contrapositive_currified.
  - apply Rmult_integral_contrapositive_currified.
    + apply not_0_INR. lia.
    + now apply pow_nonzero.
  - apply Rinv_neq_0_compat. lra.
Qed.

(** g(y) = 1 / (1 - e^{-y}) - 1 / y. *)
Definition excess (y : R) : R := 1 / (1 - exp (- y)) - 1 / y.

(** The ratio of the two sums is T g(T log rho) - g(log rho). *)
Theorem mean_index_ratio y T :
  (0 < T)%nat -> y <> 0 ->
  index_sum (exp y) T / geometric_sum (exp y) T = INR T * excess (INR T * y) - excess y.
Proof.
  intros T0 ne. assert (n0 : 0 < INR T) by (apply lt_0_INR; lia).
  assert (e1 : exp y <> 1) by (rewrite <- exp_0; intros E; apply exp_inv in E; lra).
  assert (eT : exp y ^ T <> 1).
  { rewrite <- exp_INR, <- exp_0. intros E. apply exp_inv in E. nra. }
  rewrite index_sum_closed by easy.
  assert (G : geometric_sum (exp y) T = (1 - exp y ^ T) / (1 - exp y)).
  { unfold geometric_sum. rewrite <- (sum_geometric (exp y) T). field. lra. }
  rewrite G. unfold excess. rewrite !exp_Ropp.
  replace (INR T * y) with (y * INR T) by ring. rewrite exp_INR.
  pose proof (exp_pos y). pose proof (pow_lt (exp y) T).
  field. repeat split; lra.
Qed.

(** At rho = 1 the ratio is (T - 1) / 2. *)
Theorem mean_index_marginal T :
  (0 < T)%nat -> index_sum 1 T / geometric_sum 1 T = (INR T - 1) / 2.
Proof.
  intros T0. assert (n0 : 0 < INR T) by (apply lt_0_INR; lia).
  unfold index_sum, geometric_sum.
  rewrite (sum_ext T (fun k => INR k * 1 ^ k) INR), sum_INR
    by (intros; rewrite pow1; ring).
  rewrite (sum_ext T _ (fun _ => 1)), sum_const by (intros; apply pow1). field. lra.
Qed.

(** S1 and S3 are these two sums at rho = e^{s_A D}. *)
Theorem step_sums_are_geometric s_A D T :
  output_sum s_A D T = D * geometric_sum (exp (s_A * D)) T
  /\ (0 <= s_A -> absolute_sum s_A D T = D ^ 2 * index_sum (exp (s_A * D)) T).
Proof.
  unfold output_sum, geometric_sum, absolute_sum, index_sum. split.
  - f_equal. apply sum_ext. intros. apply exp_INR.
  - intros s0. destruct (Rlt_dec s_A 0); [lra|]. f_equal. apply sum_ext.
    intros. now rewrite exp_INR.
Qed.
