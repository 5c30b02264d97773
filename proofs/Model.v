(** The selective SSM and the class of its members (docs/bounds.md, "Setting"). *)

From Coq Require Import Reals Lra Lia.
From Keelback Require Import FiniteSums Vectors StepSums Softplus.
Open Scope R_scope.

(** The constants of a class, as in [ClassConstants]: [seq_len] is T, [samples] m, [dim] d and
    [states] N. *)
Record constants := {
  B_u : R; s_A : R; B_A : R;
  B_B : R; M_B : R; B_C : R; M_C : R;
  B_q : R; M_q : R; B_w : R; M_w : R;
  p_lo : R; p_hi : R;
  seq_len : nat; samples : nat; dim : nat; states : nat
}.

Record valid (c : constants) : Prop := {
  valid_B_u : 0 <= B_u c;
  valid_A : - B_A c <= s_A c;
  valid_B : 0 <= B_B c <= M_B c;
  valid_C : 0 <= B_C c <= M_C c;
  valid_q : 0 <= B_q c <= M_q c;
  valid_w : 0 <= B_w c <= M_w c;
  valid_p : p_lo c <= p_hi c;
  valid_seq_len : (0 < seq_len c)%nat;
  valid_samples : (0 < samples c)%nat;
  valid_dim : (0 < dim c)%nat;
  valid_states : (0 < states c)%nat
}.

(** One member: w, W_B, W_C (N rows, d columns), A (d rows, N columns), p and q. *)
Record model := {
  head : nat -> R;
  W_B : nat -> nat -> R;
  W_C : nat -> nat -> R;
  state_matrix : nat -> nat -> R;
  gate_bias : R;
  gate : nat -> R
}.

Record in_class (c : constants) (f : model) : Prop := {
  class_head : norm (dim c) (head f) <= B_w c;
  class_head_l1 : l1_norm (dim c) (head f) <= M_w c;
  class_W_B : spectral_norm_le (states c) (dim c) (W_B f) (B_B c);
  class_W_B_l1 : entrywise_l1 (states c) (dim c) (W_B f) <= M_B c;
  class_W_C : spectral_norm_le (states c) (dim c) (W_C f) (B_C c);
  class_W_C_l1 : entrywise_l1 (states c) (dim c) (W_C f) <= M_C c;
  class_A : forall j n, (j < dim c)%nat -> (n < states c)%nat ->
    - B_A c <= state_matrix f j n <= s_A c;
  class_p : p_lo c <= gate_bias f <= p_hi c;
  class_q : norm (dim c) (gate f) <= B_q c;
  class_q_l1 : l1_norm (dim c) (gate f) <= M_q c
}.

(** Tokens u_0, ..., u_{T-1} of norm at most B_u; [u t j] is entry j of token t. *)
Definition tokens_within (c : constants) (u : nat -> nat -> R) : Prop :=
  forall t, (t < seq_len c)%nat -> norm (dim c) (u t) <= B_u c.

(** The output for given steps delta, values v, keys b and query q:
    z = sum over t of delta_t, sum over j and n of w_j q_n e^{A_jn tau_t} b_tn v_tj. *)
Definition output (d N T : nat) (w query : nat -> R) (A : nat -> nat -> R)
    (keys values : nat -> nat -> R) (delta : nat -> R) : R :=
  \sum_(t < T) (delta t * \sum_(j < d) \sum_(n < N)
    (w j * query n * exp (A j n * tau T delta t) * keys t n * values t j)).

(** p + q . u_t, and delta_t = softplus(p + q . u_t). *)
Definition step_logit (d : nat) (f : model) (u : nat -> nat -> R) (t : nat) : R :=
  gate_bias f + dot d (gate f) (u t).

Definition step (d : nat) (f : model) (u : nat -> nat -> R) (t : nat) : R :=
  softplus (step_logit d f u t).

(** z of the docs, with b_t = W_B u_t and the query W_C u_T of the last token. *)
Definition logit (d N T : nat) (f : model) (u : nat -> nat -> R) : R :=
  output d N T (head f) (matvec d (W_C f) (u (T - 1)%nat)) (state_matrix f)
    (fun t => matvec d (W_B f) (u t)) u (step d f u).

(** The recurrence x_t = e^{delta_t A} x_{t-1} + delta_t b_t u_t^T, from x = 0. *)
Fixpoint state (A : nat -> nat -> R) (keys values : nat -> nat -> R) (delta : nat -> R)
    (t j n : nat) : R :=
  match t with
  | O => 0
  | S r => exp (delta r * A j n) * state A keys values delta r j n
           + delta r * keys r n * values r j
  end.

Lemma tau_next T delta t :
  (t < T)%nat -> tau (S T) delta t = tau T delta t + delta T.
Proof.
  intros tT. unfold tau. cbn [sum]. apply Nat.ltb_lt in tT. now rewrite tT.
Qed.

Lemma tau_last T delta : tau (S T) delta T = 0.
Proof.
  unfold tau. apply sum_zero. intros r rT.
  now replace (T <? r)%nat with false by (symmetry; apply Nat.ltb_ge; lia).
Qed.

Lemma state_unrolled A keys values delta T j n :
  state A keys values delta T j n
  = \sum_(t < T) (delta t * (exp (A j n * tau T delta t) * keys t n * values t j)).
Proof.
  induction T as [|T IH]; [easy|]. cbn [state sum].
  rewrite tau_last, Rmult_0_r, exp_0, IH, <- sum_scal.
  f_equal; [|ring]. apply sum_ext. intros t tT. rewrite tau_next by easy.
  rewrite Rmult_plus_distr_l, exp_plus, (Rmult_comm (A j n) (delta T)). ring.
Qed.

(** "Setting": the formula for z is the recurrence, unrolled. *)
Theorem recurrence_unrolled d N T w query A keys values delta :
  \sum_(j < d) (w j * \sum_(n < N) (query n * state A keys values delta T j n))
  = output d N T w query A keys values delta.
Proof.
  unfold output.
  rewrite (sum_ext T _ (fun t => \sum_(j < d) \sum_(n < N) (w j * query n
      * (delta t * (exp (A j n * tau T delta t) * keys t n * values t j))))).
  - rewrite sum_swap. apply sum_ext. intros j _. rewrite sum_swap, <- sum_scal.
    apply sum_ext. intros n _. rewrite state_unrolled, sum_scal. ring.
  - intros t _. rewrite <- sum_scal. apply sum_ext. intros j _.
    rewrite <- sum_scal. apply sum_ext. intros n _. ring.
Qed.

(** D = softplus(p_hi + B_q B_u), the largest step; G = B_B B_C B_u^3; b = B_w G S1. *)
Definition largest_step (c : constants) : R := softplus (p_hi c + B_q c * B_u c).
Definition gain (c : constants) : R := B_B c * B_C c * B_u c ^ 3.
Definition class_output_sum (c : constants) : R :=
  output_sum (s_A c) (largest_step c) (seq_len c).
Definition output_bound (c : constants) : R := B_w c * gain c * class_output_sum c.

(** delta_min = softplus(p_lo - B_q B_u), the smallest step. *)
Definition smallest_step (c : constants) : R := softplus (p_lo c - B_q c * B_u c).

Definition class_logit (c : constants) (f : model) (u : nat -> nat -> R) : R :=
  logit (dim c) (states c) (seq_len c) f u.

Lemma logit_of_the_class c f u t :
  valid c -> in_class c f -> tokens_within c u -> (t < seq_len c)%nat ->
  p_lo c - B_q c * B_u c <= step_logit (dim c) f u t <= p_hi c + B_q c * B_u c.
Proof.
  intros V F U tT. pose proof (dot_le (dim c) (gate f) (u t)) as CS.
  assert (norm (dim c) (gate f) * norm (dim c) (u t) <= B_q c * B_u c).
  { apply Rmult_le_compat; try apply norm_nonneg; [apply F | now apply U]. }
  destruct (class_p c f F). pose proof (Rle_abs (dot (dim c) (gate f) (u t))).
  pose proof (Rle_abs (- dot (dim c) (gate f) (u t))) as N. rewrite Rabs_Ropp in N.
  unfold step_logit. lra.
Qed.

(** Every step lies in (0, D]; more exactly, in [delta_min, D]. *)
Theorem steps_of_the_class c f u :
  valid c -> in_class c f -> tokens_within c u ->
  steps_within (largest_step c) (seq_len c) (step (dim c) f u)
  /\ (forall t, (t < seq_len c)%nat -> smallest_step c <= step (dim c) f u t).
Proof.
  intros V F U. split; intros t tT; pose proof (logit_of_the_class c f u t V F U tT).
  - split; [apply softplus_pos | now apply softplus_le].
  - now apply softplus_le.
Qed.
