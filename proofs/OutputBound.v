(** The output bound (docs/bounds.md, Proposition 1). *)

From Coq Require Import Reals Lra Lia.
From Keelback Require Import FiniteSums Vectors StepSums Softplus Model.
Open Scope R_scope.

(** ** Sums of the output's form *)

Lemma output_ext_steps d N T w query A keys values delta delta' :
  (forall t, (t < T)%nat -> delta t = delta' t) ->
  output d N T w query A keys values delta = output d N T w query A keys values delta'.
Proof.
  intros E. assert (Etau : forall t, tau T delta t = tau T delta' t).
  { intros t. unfold tau. apply sum_ext. intros r rT. now rewrite E. }
  unfold output. apply sum_ext. intros t tT. rewrite (E t tT). f_equal.
  apply sum_ext. intros j _. apply sum_ext. intros n _. now rewrite Etau.
Qed.

Section Forms.

Variables (d N T : nat) (w query : nat -> R) (keys values : nat -> nat -> R).
Variables (Bw Bq Bk Bv : R).
Hypotheses (Hw : norm d w <= Bw) (Hq : norm N query <= Bq).
Hypothesis (Hk : forall t, (t < T)%nat -> norm N (keys t) <= Bk).
Hypothesis (Hv : forall t, (t < T)%nat -> norm d (values t) <= Bv).

(** What token t adds is weighted by E t j n, at most K t in absolute value. *)
Lemma form_bound (E : nat -> nat -> nat -> R) (K : nat -> R) :
  (forall t, (t < T)%nat -> 0 <= K t) ->
  (forall t j n, (t < T)%nat -> (j < d)%nat -> (n < N)%nat -> Rabs (E t j n) <= K t) ->
  Rabs (\sum_(t < T) \sum_(j < d) \sum_(n < N)
          (w j * query n * E t j n * keys t n * values t j))
  <= sum T K * ((Bw * Bv) * (Bq * Bk)).
Proof.
  intros K0 HE. rewrite <- sum_scal_r. eapply Rle_trans; [apply sum_abs|].
  apply sum_le. intros t tT.
  eapply Rle_trans; [apply (weighted_form_bound d N w (values t) (keys t) query (E t) (K t))|].
  - intros j n jd nN. now apply HE.
  - now apply K0.
  - apply Rmult_le_compat_l; [now apply K0|].
    repeat apply Rmult_le_compat; try apply norm_nonneg; auto;
      apply Rmult_le_pos; apply norm_nonneg.
Qed.

Lemma output_form A delta :
  output d N T w query A keys values delta
  = \sum_(t < T) \sum_(j < d) \sum_(n < N)
      (w j * query n * (delta t * exp (A j n * tau T delta t)) * keys t n * values t j).
Proof.
  unfold output. apply sum_ext. intros t _. rewrite <- sum_scal. apply sum_ext. intros j _.
  rewrite <- sum_scal. apply sum_ext. intros n _. ring.
Qed.

Lemma form_minus (E F : nat -> nat -> nat -> R) :
  \sum_(t < T) \sum_(j < d) \sum_(n < N) (w j * query n * E t j n * keys t n * values t j)
  - \sum_(t < T) \sum_(j < d) \sum_(n < N) (w j * query n * F t j n * keys t n * values t j)
  = \sum_(t < T) \sum_(j < d) \sum_(n < N)
      (w j * query n * (E t j n - F t j n) * keys t n * values t j).
Proof.
  rewrite <- sum_minus. apply sum_ext. intros t _. rewrite <- sum_minus. apply sum_ext.
  intros j _. rewrite <- sum_minus. apply sum_ext. intros n _. ring.
Qed.

(** e^{A tau} <= e^{s_A tau}, Cauchy-Schwarz twice, then Lemma 1. *)
Lemma output_le sA D A delta :
  steps_within D T delta ->
  (forall j n, (j < d)%nat -> (n < N)%nat -> A j n <= sA) ->
  Rabs (output d N T w query A keys values delta)
  <= output_sum sA D T * ((Bw * Bv) * (Bq * Bk)).
Proof.
  intros H HA. rewrite output_form. destruct (Nat.eq_dec T 0) as [T0|T0].
  { unfold output_sum. rewrite T0. simpl. rewrite Rabs_R0. lra. }
  assert (Q : 0 <= (Bw * Bv) * (Bq * Bk)).
  { repeat apply Rmult_le_pos; eapply Rle_trans; try apply norm_nonneg; eauto.
    - apply (Hv O). lia.
    - apply (Hk O). lia. }
  eapply Rle_trans; [apply (form_bound _ (fun t => delta t * exp (sA * tau T delta t)))|].
  - intros t tT. apply Rmult_le_pos; [left; now apply H | left; apply exp_pos].
  - intros t j n tT jd nN. destruct (H t tT) as [d0 _].
    rewrite Rabs_pos_eq by (apply Rmult_le_pos; left; [easy | apply exp_pos]).
    apply Rmult_le_compat_l; [lra|]. apply exp_le.
    apply Rmult_le_compat_r; [|now apply HA].
    unfold tau. apply sum_nonneg. intros r rT. destruct (t <? r)%nat; [|lra].
    left. now apply H.
  - apply Rmult_le_compat_r; [easy | now apply lemma_1].
Qed.

End Forms.

(** ** Members of a class *)

Section Members.

Variables (c : constants) (f : model) (u : nat -> nat -> R).
Hypotheses (V : valid c) (F : in_class c f) (U : tokens_within c u).

Lemma keys_within t :
  (t < seq_len c)%nat -> norm (states c) (matvec (dim c) (W_B f) (u t)) <= B_B c * B_u c.
Proof.
  intros tT. eapply Rle_trans; [apply F|].
  apply Rmult_le_compat_l; [apply V | now apply U].
Qed.

Lemma query_within :
  norm (states c) (matvec (dim c) (W_C f) (u (seq_len c - 1)%nat)) <= B_C c * B_u c.
Proof.
  eapply Rle_trans; [apply F|].
  apply Rmult_le_compat_l; [apply V|]. apply U. pose proof (valid_seq_len c V). lia.
Qed.

Lemma state_matrix_within j n :
  (j < dim c)%nat -> (n < states c)%nat -> state_matrix f j n <= s_A c.
Proof. intros jd nN. now apply (class_A c f F). Qed.

End Members.

Lemma steps_in_class c f u :
  valid c -> in_class c f -> tokens_within c u ->
  steps_within (largest_step c) (seq_len c) (step (dim c) f u).
Proof. intros V F U. now apply steps_of_the_class. Qed.

Theorem output_within_bound c f u :
  valid c -> in_class c f -> tokens_within c u -> Rabs (class_logit c f u) <= output_bound c.
Proof.
  intros V F U. unfold class_logit, logit.
  eapply Rle_trans; [apply (output_le (dim c) (states c) (seq_len c) _ _ _ _
    (B_w c) (B_C c * B_u c) (B_B c * B_u c) (B_u c)) with (sA := s_A c) (D := largest_step c)|].
  - apply F.
  - now apply query_within.
  - intros t tT. now apply keys_within.
  - exact U.
  - now apply steps_in_class.
  - now apply state_matrix_within.
  - right. unfold output_bound, gain, class_output_sum. ring.
Qed.

(** ** The member and the sequence that attain the bound *)

Definition attaining_model (c : constants) : model := {|
  head := fun j => B_w c * first j;
  W_B := fun n j => B_B c * corner n j;
  W_C := fun n j => B_C c * corner n j;
  state_matrix := fun _ _ => s_A c;
  gate_bias := p_hi c;
  gate := fun j => B_q c * first j
|}.

Definition attaining_tokens (c : constants) (_ j : nat) : R := B_u c * first j.

Lemma norm_scaled_first d x : (0 < d)%nat -> 0 <= x -> norm d (fun j => x * first j) = x.
Proof. intros d0 x0. now rewrite norm_scal, norm_first, Rmult_1_r, Rabs_pos_eq. Qed.

Lemma attaining_model_in_class c : valid c -> in_class c (attaining_model c).
Proof.
  intros V. destruct V as [u0 A0 Bs Cs qs ws ps T0 m0 d0 N0].
  split; simpl.
  - rewrite norm_scaled_first; [lra | easy | lra].
  - rewrite l1_norm_first; [lra | easy | lra].
  - apply spectral_corner; [easy | easy | lra].
  - rewrite entrywise_corner; [lra | easy | easy | lra].
  - apply spectral_corner; [easy | easy | lra].
  - rewrite entrywise_corner; [lra | easy | easy | lra].
  - intros. lra.
  - lra.
  - rewrite norm_scaled_first; [lra | easy | lra].
  - rewrite l1_norm_first; [lra | easy | lra].
Qed.

Lemma attaining_tokens_within c : valid c -> tokens_within c (attaining_tokens c).
Proof.
  intros V t _. unfold attaining_tokens.
  rewrite norm_scaled_first; [lra | apply V | apply V].
Qed.

Lemma attaining_step c t :
  valid c -> step (dim c) (attaining_model c) (attaining_tokens c) t = largest_step c.
Proof.
  intros V. unfold step, step_logit, largest_step. f_equal. f_equal.
  unfold dot, attaining_tokens. simpl.
  rewrite (sum_ext (dim c) _ (fun j => (B_q c * B_u c) * first j)).
  - rewrite sum_first_only by apply V. easy.
  - intros j _. transitivity (B_q c * B_u c * first j ^ 2); [ring | now rewrite first_square].
Qed.

Theorem output_bound_attained c :
  valid c -> class_logit c (attaining_model c) (attaining_tokens c) = output_bound c.
Proof.
  intros V. pose proof (valid_dim c V) as d0. pose proof (valid_states c V) as N0.
  unfold class_logit, logit, output.
  set (delta := step (dim c) (attaining_model c) (attaining_tokens c)).
  rewrite (sum_ext (seq_len c) _ (fun t =>
    (B_w c * gain c) * (delta t * exp (s_A c * tau (seq_len c) delta t)))).
  - rewrite sum_scal. unfold output_bound, class_output_sum. f_equal.
    apply lemma_1_equality.
    + apply steps_in_class; [easy | now apply attaining_model_in_class
                                  | now apply attaining_tokens_within].
    + intros t _. now apply attaining_step.
  - intros t _.
    rewrite (sum_ext (dim c) _ (fun j =>
      (B_w c * gain c) * exp (s_A c * tau (seq_len c) delta t) * first j)).
    + rewrite sum_first_only by easy. ring.
    + intros j _.
      rewrite (sum_ext (states c) _ (fun n =>
        (B_w c * gain c) * exp (s_A c * tau (seq_len c) delta t) * first j * first n)).
      * now rewrite sum_first_only.
      * intros n _. cbn [head W_B W_C state_matrix attaining_model].
        rewrite !matvec_corner by easy. unfold attaining_tokens, gain.
        change (first 0) with 1. set (E := exp _).
        transitivity (B_w c * (B_B c * B_C c * B_u c ^ 3) * E * first j ^ 2 * first n ^ 2);
          [ring | now rewrite !first_square].
Qed.

(** Proposition 1. The maximum of |z| over the class and over all sequences of length T is
    b = B_w G S1: nothing exceeds it, and the member with w = B_w e_1, W_B = B_B e_1 e_1^T,
    W_C = B_C e_1 e_1^T, q = B_q e_1, p = p_hi, A = s_A attains it at u_t = B_u e_1. *)
Theorem proposition_1 c :
  valid c ->
  (forall f u, in_class c f -> tokens_within c u -> Rabs (class_logit c f u) <= output_bound c)
  /\ in_class c (attaining_model c)
  /\ tokens_within c (attaining_tokens c)
  /\ class_logit c (attaining_model c) (attaining_tokens c) = output_bound c.
Proof.
  intros V. repeat split; try now apply attaining_model_in_class.
  - intros f u F U. now apply output_within_bound.
  - now apply attaining_tokens_within.
  - now apply output_bound_attained.
Qed.
