(** The step size of a token, softplus(x) = log(1 + e^x), and how it moves with x
    (docs/bounds.md, Lemma 5). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums StepSums.
Open Scope R_scope.

Definition softplus (x : R) : R := ln (1 + exp x).

Lemma one_plus_exp_pos x : 0 < 1 + exp x.
Proof. pose proof (exp_pos x). lra. Qed.

(** e^{softplus(x)} = 1 + e^x ("Published form"). *)
Theorem exp_softplus x : exp (softplus x) = 1 + exp x.
Proof. apply exp_ln, one_plus_exp_pos. Qed.

Lemma softplus_pos x : 0 < softplus x.
Proof.
  unfold softplus. rewrite <- ln_1. apply ln_increasing; pose proof (exp_pos x); lra.
Qed.

Lemma softplus_le x y : x <= y -> softplus x <= softplus y.
Proof.
  intros le. unfold softplus. apply exp_le in le.
  destruct (Rle_lt_or_eq_dec _ _ le) as [lt|eq].
  - left. apply ln_increasing; [apply one_plus_exp_pos | lra].
  - rewrite eq. lra.
Qed.

(** softplus'(x) = 1 - e^{-softplus(x)} <= softplus(x); it also lies below 1. *)
Theorem softplus_derivative x :
  is_derive softplus x (1 - exp (- softplus x))
  /\ 0 < 1 - exp (- softplus x) <= softplus x
  /\ 1 - exp (- softplus x) < 1.
Proof.
  pose proof (one_plus_exp_pos x). pose proof (exp_pos x).
  rewrite exp_Ropp, exp_softplus. split; [|split; [split|]].
  - unfold softplus. auto_derive; [easy|]. field. lra.
  - assert (/ (1 + exp x) < / 1) by (apply Rinv_lt_contravar; lra). lra.
  - pose proof (exp_ineq1_le (- softplus x)) as I. rewrite exp_Ropp, exp_softplus in I. lra.
  - assert (0 < / (1 + exp x)) by now apply Rinv_0_lt_compat. lra.
Qed.

(** Moving the argument by h moves the step by at most a factor e^{|h|}. *)
Theorem softplus_relative_error x h :
  exp (- Rabs h) * softplus x <= softplus (x + h) <= exp (Rabs h) * softplus x.
Proof.
  assert (up : forall a b, a <= b -> softplus b <= exp (b - a) * softplus a).
  { intros a b ab. set (f := fun y => - (exp (- y) * softplus y)).
    pose proof (increase_at_least f
      (fun y => exp (- y) * (softplus y - (1 - exp (- softplus y)))) a b 0 ab) as I.
    assert (f a <= f b) as F.
    { rewrite Rmult_0_l in I. enough (0 <= f b - f a) by lra. apply I.
      - intros y _. destruct (softplus_derivative y) as [D _]. unfold f.
        evar (l : R). replace (exp (- y) * _) with l; [|unfold l].
        + apply (is_derive_opp (fun y => exp (- y) * softplus y)).
          apply (is_derive_mult (fun y => exp (- y)) softplus y (- exp (- y))).
          * auto_derive; [easy | ring].
          * exact D.
          * intros. apply Rmult_comm.
        + unfold opp, plus, mult. simpl. ring.
      - intros y _. destruct (softplus_derivative y) as [_ [[_ le] _]].
        apply Rmult_le_pos; [left; apply exp_pos | lra]. }
    unfold f in F. replace (b - a) with (b + - a) by lra. rewrite exp_plus.
    apply Rmult_le_reg_l with (exp (- b)); [apply exp_pos|].
    rewrite <- !Rmult_assoc, <- exp_plus. rewrite Rplus_opp_l, exp_0. lra. }
  pose proof (exp_pos (Rabs h)) as e0. pose proof (softplus_pos x) as s0.
  assert (exp (- Rabs h) * exp (Rabs h) = 1) as inv
    by (rewrite <- exp_plus, Rplus_opp_l; apply exp_0).
  assert (1 <= exp (Rabs h)) as e1
    by (rewrite <- exp_0; apply exp_le, Rabs_pos).
  pose proof (exp_pos (- Rabs h)).
  destruct (Rle_lt_dec 0 h) as [pos|neg].
  - pose proof (up x (x + h)) as U. rewrite (Rabs_pos_eq h) in * by easy.
    replace (x + h - x) with h in U by lra. specialize (U ltac:(lra)).
    pose proof (softplus_le x (x + h)) as M. specialize (M ltac:(lra)). nra.
  - pose proof (up (x + h) x) as U. rewrite (Rabs_left h) in * by easy.
    replace (x - (x + h)) with (- h) in U by lra. specialize (U ltac:(lra)).
    pose proof (softplus_le (x + h) x) as M. specialize (M ltac:(lra)). nra.
Qed.
