(** Massart's finite class lemma (docs/bounds.md, Proposition 2 uses it at each level). *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums StepSums Means Rademacher.
Import ListNotations.
Open Scope R_scope.

Fixpoint squares (x : list R) : R :=
  match x with
  | [] => 0
  | a :: rest => a ^ 2 + squares rest
  end.

(** The norm on the sample: the root of the mean square of the m values. *)
Definition sample_norm (m : nat) (x : list R) : R := sqrt (squares x / INR m).

Lemma squares_nonneg x : 0 <= squares x.
Proof. induction x as [|a x IH]; simpl; [lra|]. pose proof (pow2_ge_0 a). simpl in H. lra. Qed.

Lemma sample_norm_nonneg m x : 0 <= sample_norm m x.
Proof. apply sqrt_pos. Qed.

Lemma squares_of_norm m x r :
  (0 < m)%nat -> sample_norm m x <= r -> squares x <= INR m * r ^ 2.
Proof.
  intros m0 H. assert (0 < INR m) by now apply lt_0_INR.
  pose proof (sample_norm_nonneg m x). pose proof (squares_nonneg x).
  assert (E : sample_norm m x ^ 2 = squares x / INR m)
    by (apply pow2_sqrt, Rdiv_le_0_compat; lra).
  replace (squares x) with (INR m * (squares x / INR m)) by (field; lra).
  rewrite <- E. apply Rmult_le_compat_l; [lra|]. apply pow_incr. lra.
Qed.

(** ** cosh t <= e^{t^2 / 2} *)

Lemma from_zero (f df : R -> R) t :
  0 <= t -> (forall x, 0 <= x -> is_derive f x (df x)) -> (forall x, 0 <= x -> 0 <= df x) ->
  f 0 <= f t.
Proof.
  intros t0 D P. pose proof (increase_at_least f df 0 t 0 t0) as I.
  enough (0 * (t - 0) <= f t - f 0) by lra. apply I; intros x Hx; [apply D | apply P]; lra.
Qed.

Lemma cosh_le_gauss_nonneg t : 0 <= t -> (exp t + exp (- t)) / 2 <= exp (t ^ 2 / 2).
Proof.
  assert (sinh0 : forall x, 0 <= x -> 0 <= exp x - exp (- x)).
  { intros x x0. assert (exp (- x) <= exp x) by (apply exp_le; lra). lra. }
  assert (tanh : forall x, 0 <= x -> 0 <= x * (exp x + exp (- x)) - (exp x - exp (- x))).
  { intros x x0.
    pose proof (from_zero (fun x => x * (exp x + exp (- x)) - (exp x - exp (- x)))
      (fun x => x * (exp x - exp (- x))) x x0) as F. cbv beta in F.
    replace (0 * (exp 0 + exp (- 0)) - (exp 0 - exp (- 0))) with 0 in F
      by (rewrite Ropp_0; ring).
    apply F.
    - intros y _. auto_derive; [easy | ring].
    - intros y y0. apply Rmult_le_pos; auto. }
  intros t0.
  pose proof (from_zero (fun x => - ((exp x + exp (- x)) * exp (- (x ^ 2 / 2))))
    (fun x => (x * (exp x + exp (- x)) - (exp x - exp (- x))) * exp (- (x ^ 2 / 2))) t t0) as F.
  cbv beta in F.
  replace (0 ^ 2 / 2) with 0 in F by field. rewrite Ropp_0, !exp_0 in F.
  assert (H : - ((1 + 1) * 1) <= - ((exp t + exp (- t)) * exp (- (t ^ 2 / 2)))).
  { apply F.
    - intros y _. auto_derive; [easy|]. replace (y ^ 2 / 2) with (y * (y * 1) * / 2) by (simpl; field). field.
    - intros y y0. apply Rmult_le_pos; [auto | left; apply exp_pos]. }
  apply Rmult_le_reg_r with (exp (- (t ^ 2 / 2))); [apply exp_pos|].
  rewrite <- exp_plus, Rplus_opp_r, exp_0. lra.
Qed.

Lemma cosh_le_gauss t : (exp t + exp (- t)) / 2 <= exp (t ^ 2 / 2).
Proof.
  destruct (Rle_lt_dec 0 t) as [pos|neg]; [now apply cosh_le_gauss_nonneg|].
  pose proof (cosh_le_gauss_nonneg (- t) ltac:(lra)) as H.
  rewrite Ropp_involutive in H. replace ((- t) ^ 2) with (t ^ 2) in H by ring. lra.
Qed.

(** The moment generating function of a sum of signs. *)
Lemma sign_moments m x l :
  length x = m -> mean (signs m) (fun s => exp (l * pairing s x)) <= exp (l ^ 2 * squares x / 2).
Proof.
  revert x. induction m as [|m IH]; intros x L.
  - destruct x; [|easy]. unfold mean. simpl. replace (l * 0) with 0 by ring.
    replace (l * (l * 1) * 0 / 2) with 0 by field. rewrite exp_0. lra.
  - destruct x as [|a x]; [easy|]. simpl in L. rewrite mean_signs. cbn [pairing squares].
    rewrite (mean_ext (signs m) (fun s => exp (l * (1 * a + pairing s x)))
      (fun s => exp (l * a) * exp (l * pairing s x)))
      by (intros; rewrite <- exp_plus; f_equal; ring).
    rewrite (mean_ext (signs m) (fun s => exp (l * (-1 * a + pairing s x)))
      (fun s => exp (- (l * a)) * exp (l * pairing s x)))
      by (intros; rewrite <- exp_plus; f_equal; ring).
    rewrite !mean_scal. specialize (IH x ltac:(lia)).
    set (M := mean (signs m) (fun s => exp (l * pairing s x))) in *.
    replace (l ^ 2 * (a ^ 2 + squares x) / 2) with ((l * a) ^ 2 / 2 + l ^ 2 * squares x / 2)
      by field.
    rewrite exp_plus.
    replace ((exp (l * a) * M + exp (- (l * a)) * M) / 2)
      with ((exp (l * a) + exp (- (l * a))) / 2 * M) by field.
    apply Rmult_le_compat; [| |apply cosh_le_gauss | easy].
    + pose proof (exp_pos (l * a)). pose proof (exp_pos (- (l * a))). lra.
    + apply mean_nonneg. intros s _. left. apply exp_pos.
Qed.

(** ** The lemma *)

Definition finite_class (vectors : list (list R)) (x : list R) : Prop := In x vectors.

Section Finite.

Variables (m : nat) (vectors : list (list R)) (r : R).
Hypotheses (m0 : (0 < m)%nat) (inhabited : vectors <> []).
Hypothesis (lengths : forall x, In x vectors -> length x = m).
Hypothesis (norms : forall x, In x vectors -> sample_norm m x <= r).

Lemma finite_sup_bounded s l :
  0 < l ->
  let E := total (fun x => exp (l * pairing s x)) vectors in
  forall y, (exists x, finite_class vectors x /\ y = pairing s x / INR m) -> y <= ln E / (l * INR m).
Proof.
  intros l0 E y [x [I ->]]. assert (M : 0 < INR m) by now apply lt_0_INR.
  assert (le : exp (l * pairing s x) <= E).
  { unfold E. clear - I. induction vectors as [|v vs IH]; [easy|]. simpl.
    assert (0 <= total (fun x => exp (l * pairing s x)) vs).
    { rewrite <- (Rmult_0_r (INR (length vs))), <- total_const. apply total_le.
      intros a _. left. apply exp_pos. }
    pose proof (exp_pos (l * pairing s v)).
    destruct I as [->|I]; [lra|]. specialize (IH I). lra. }
  apply (Rle_div_l _ _ (INR m)); [easy|].
  replace (ln E / (l * INR m) * INR m) with (ln E / l) by (field; lra).
  apply (Rle_div_r _ _ l); [easy|]. rewrite Rmult_comm, <- (ln_exp (l * pairing s x)).
  destruct le as [lt|eq]; [left; apply ln_increasing; [apply exp_pos | easy] | rewrite eq; lra].
Qed.

Lemma finite_sup_exists s : exists y x, finite_class vectors x /\ y = pairing s x / INR m.
Proof.
  destruct vectors as [|v vs]; [easy|]. exists (pairing s v / INR m), v.
  split; [now left | easy].
Qed.

Lemma massart_at l :
  0 < l ->
  rademacher m (finite_class vectors) <= ln (INR (length vectors)) / (l * INR m) + l * r ^ 2 / 2.
Proof.
  intros l0. assert (M : 0 < INR m) by now apply lt_0_INR.
  set (Rad := rademacher m (finite_class vectors)). set (N := INR (length vectors)).
  assert (N0 : 0 < N) by now apply length_pos.
  assert (pos : forall s, 0 < total (fun x => exp (l * pairing s x)) vectors).
  { intros s. destruct vectors as [|v vs]; [easy|].
    rewrite <- (Rmult_0_r N). unfold N. rewrite <- total_const. apply total_lt.
    - intros a _. left. apply exp_pos.
    - exists v. split; [now left | apply exp_pos]. }
  assert (moment : exp (l * INR m * Rad) <= N * exp (l ^ 2 * (INR m * r ^ 2) / 2)).
  { unfold Rad, rademacher. rewrite <- mean_scal.
    eapply Rle_trans; [apply exp_mean_le, signs_not_empty|].
    apply Rle_trans with
      (mean (signs m) (fun s => total (fun x => exp (l * pairing s x)) vectors)).
    - apply mean_le. intros s _. set (E := total _ vectors).
      rewrite <- (exp_ln E) by apply pos. apply exp_le.
      assert (B : sup (fun y => exists x, finite_class vectors x /\ y = pairing s x / INR m)
                  <= ln E / (l * INR m)).
      { apply sup_least; [apply finite_sup_exists | now apply finite_sup_bounded]. }
      apply (Rle_div_r _ _ (l * INR m)) in B; [lra|]. apply Rmult_lt_0_compat; lra.
    - apply Rle_trans with
        (total (fun x => mean (signs m) (fun s => exp (l * pairing s x))) vectors).
      + right. clear. induction vectors as [|v vs IH]; simpl.
        * unfold mean. rewrite (total_ext _ _ (fun _ => 0 * 0)) by (intros; ring).
          rewrite total_scal. lra.
        * now rewrite mean_plus, IH.
      + unfold N. rewrite <- total_const. apply total_le. intros x I.
        eapply Rle_trans; [apply sign_moments; now apply lengths|]. apply exp_le.
        pose proof (squares_of_norm m x r m0 (norms x I)).
        pose proof (pow2_ge_0 l). nra. }
  assert (le : l * INR m * Rad <= ln N + l ^ 2 * (INR m * r ^ 2) / 2).
  { rewrite <- (ln_exp (l * INR m * Rad)), <- (ln_exp (l ^ 2 * (INR m * r ^ 2) / 2)).
    rewrite <- ln_mult by (try apply exp_pos; easy).
    destruct moment as [lt|eq]; [left; apply ln_increasing; [apply exp_pos | easy]|].
    rewrite eq. lra. }
  apply Rmult_le_reg_l with (l * INR m); [apply Rmult_lt_0_compat; lra|].
  eapply Rle_trans; [apply le|]. right. field. lra.
Qed.

(** Massart's lemma. A finite class of N functions of norm at most r on the sample has
    Rad <= r sqrt(2 log N / m). *)
Theorem massart :
  0 <= r ->
  rademacher m (finite_class vectors) <= r * sqrt (2 * ln (INR (length vectors)) / INR m).
Proof.
  intros r0. assert (M : 0 < INR m) by now apply lt_0_INR.
  set (L := ln (INR (length vectors))). set (Rad := rademacher m (finite_class vectors)).
  assert (at_ : forall l, 0 < l -> Rad <= L / (l * INR m) + l * r ^ 2 / 2)
    by (intros; now apply massart_at).
  assert (L0 : 0 <= L).
  { unfold L. rewrite <- ln_1. destruct vectors as [|v vs]; [easy|].
    cbn [length]. rewrite S_INR. pose proof (pos_INR (length vs)).
    destruct (Rle_lt_or_eq_dec 0 _ H) as [lt|<-].
    - left. apply ln_increasing; lra.
    - rewrite Rplus_0_l. lra. }
  destruct L0 as [L0|L0].
  - destruct r0 as [r0|<-].
    + set (root := sqrt (2 * L / INR m)).
      assert (root0 : 0 < root) by (apply sqrt_lt_R0, Rdiv_lt_0_compat; lra).
      assert (root2 : root ^ 2 = 2 * L / INR m)
        by (apply pow2_sqrt; left; apply Rdiv_lt_0_compat; lra).
      eapply Rle_trans; [apply (at_ (root / r)); now apply Rdiv_lt_0_compat|].
      right. replace L with (INR m * root ^ 2 / 2) by (rewrite root2; field; lra). field. lra.
    + rewrite Rmult_0_l. apply le_epsilon. intros e e0.
      eapply Rle_trans; [apply (at_ (L / (e * INR m)))|].
      * apply Rdiv_lt_0_compat; [easy|]. now apply Rmult_lt_0_compat.
      * right. field. lra.
  - rewrite <- L0. replace (2 * 0 / INR m) with 0 by (field; lra). rewrite sqrt_0, Rmult_0_r.
    apply le_epsilon. intros e e0.
    assert (0 < r ^ 2 + 1) by (pose proof (pow2_ge_0 r); lra).
    eapply Rle_trans; [apply (at_ (e / (r ^ 2 + 1))); now apply Rdiv_lt_0_compat|].
    rewrite <- L0. unfold Rdiv at 1. rewrite Rmult_0_l, !Rplus_0_l.
    replace e with (e / (r ^ 2 + 1) * (r ^ 2 + 1)) at 2 by (field; lra).
    assert (0 < e / (r ^ 2 + 1)) by now apply Rdiv_lt_0_compat.
    pose proof (pow2_ge_0 r). nra.
Qed.

End Finite.
