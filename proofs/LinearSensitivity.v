(** How far the output moves with the parameters in which it is linear
    (docs/bounds.md, Lemma 5: w, W_B and W_C). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors StepSums DecayingSums Softplus Model OutputBound
  StateSensitivity.
Open Scope R_scope.

Ltac difference_of_sums :=
  unfold output; rewrite <- sum_minus; apply sum_ext; intros;
  rewrite <- Rmult_minus_distr_l; f_equal;
  rewrite <- sum_minus; apply sum_ext; intros;
  rewrite <- sum_minus; apply sum_ext; intros; ring.

Section Linear.

Variables (d N T : nat) (w query : nat -> R) (A : nat -> nat -> R).
Variables (keys values : nat -> nat -> R) (delta : nat -> R).

Lemma linear_in_head w' :
  output d N T w query A keys values delta - output d N T w' query A keys values delta
  = output d N T (fun j => w j - w' j) query A keys values delta.
Proof. difference_of_sums. Qed.

Lemma linear_in_query query' :
  output d N T w query A keys values delta - output d N T w query' A keys values delta
  = output d N T w (fun n => query n - query' n) A keys values delta.
Proof. difference_of_sums. Qed.

Lemma linear_in_keys keys' :
  output d N T w query A keys values delta - output d N T w query A keys' values delta
  = output d N T w query A (fun t n => keys t n - keys' t n) values delta.
Proof. difference_of_sums. Qed.

Lemma linear_in_values values' :
  output d N T w query A keys values delta - output d N T w query A keys values' delta
  = output d N T w query A keys (fun t j => values t j - values' t j) delta.
Proof. difference_of_sums. Qed.

End Linear.

Lemma matvec_minus d W W' x n :
  matvec d W x n - matvec d W' x n = matvec d (fun i j => W i j - W' i j) x n.
Proof.
  unfold matvec. rewrite <- sum_minus. apply sum_ext. intros. ring.
Qed.

Lemma matvec_minus_r d W x y n :
  matvec d W x n - matvec d W y n = matvec d W (fun j => x j - y j) n.
Proof.
  unfold matvec. rewrite <- sum_minus. apply sum_ext. intros. ring.
Qed.

Definition with_head (f : model) w := {|
  head := w; W_B := W_B f; W_C := W_C f; state_matrix := state_matrix f;
  gate_bias := gate_bias f; gate := gate f |}.
Definition with_W_B (f : model) W := {|
  head := head f; W_B := W; W_C := W_C f; state_matrix := state_matrix f;
  gate_bias := gate_bias f; gate := gate f |}.
Definition with_W_C (f : model) W := {|
  head := head f; W_B := W_B f; W_C := W; state_matrix := state_matrix f;
  gate_bias := gate_bias f; gate := gate f |}.
Definition with_p (f : model) p := {|
  head := head f; W_B := W_B f; W_C := W_C f; state_matrix := state_matrix f;
  gate_bias := p; gate := gate f |}.
Definition with_q (f : model) q := {|
  head := head f; W_B := W_B f; W_C := W_C f; state_matrix := state_matrix f;
  gate_bias := gate_bias f; gate := q |}.

(** Lemma 5, w: z moves by at most the l2 norm of the move times G S1. *)
Theorem lemma_5_w c f w' u :
  valid c -> in_class c f -> tokens_within c u ->
  Rabs (class_logit c f u - class_logit c (with_head f w') u)
  <= norm (dim c) (fun j => head f j - w' j) * (gain c * class_output_sum c).
Proof.
  intros V F U. unfold class_logit, logit. simpl.
  change (step (dim c) (with_head f w') u) with (step (dim c) f u).
  rewrite linear_in_head.
  eapply Rle_trans; [apply output_le with (sA := s_A c) (D := largest_step c)
    (Bw := norm (dim c) (fun j => head f j - w' j))
    (Bq := B_C c * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)|].
  - lra.
  - now apply query_within.
  - intros t tT. now apply keys_within.
  - exact U.
  - now apply steps_in_class.
  - now apply state_matrix_within.
  - right. unfold gain, class_output_sum. ring.
Qed.

(** Lemma 5, W_B: the spectral norm of the move times B_w B_C B_u^3 S1. *)
Theorem lemma_5_W_B c f W' u epsilon :
  valid c -> in_class c f -> tokens_within c u -> 0 <= epsilon ->
  spectral_norm_le (states c) (dim c) (fun n j => W_B f n j - W' n j) epsilon ->
  Rabs (class_logit c f u - class_logit c (with_W_B f W') u)
  <= epsilon * (B_w c * B_C c * B_u c ^ 3 * class_output_sum c).
Proof.
  intros V F U eps0 H. unfold class_logit, logit. simpl.
  change (step (dim c) (with_W_B f W') u) with (step (dim c) f u).
  rewrite linear_in_keys.
  eapply Rle_trans; [apply output_le with (sA := s_A c) (D := largest_step c)
    (Bw := B_w c) (Bq := B_C c * B_u c) (Bk := epsilon * B_u c) (Bv := B_u c)|].
  - apply F.
  - now apply query_within.
  - intros t tT. rewrite (norm_ext _ _ (matvec (dim c) (fun n j => W_B f n j - W' n j) (u t)))
      by (intros; apply matvec_minus).
    eapply Rle_trans; [apply H|]. apply Rmult_le_compat_l; [easy | now apply U].
  - exact U.
  - now apply steps_in_class.
  - now apply state_matrix_within.
  - right. unfold class_output_sum. ring.
Qed.

(** Lemma 5, W_C: the spectral norm of the move times B_w B_B B_u^3 S1. *)
Theorem lemma_5_W_C c f W' u epsilon :
  valid c -> in_class c f -> tokens_within c u -> 0 <= epsilon ->
  spectral_norm_le (states c) (dim c) (fun n j => W_C f n j - W' n j) epsilon ->
  Rabs (class_logit c f u - class_logit c (with_W_C f W') u)
  <= epsilon * (B_w c * B_B c * B_u c ^ 3 * class_output_sum c).
Proof.
  intros V F U eps0 H. unfold class_logit, logit. simpl.
  change (step (dim c) (with_W_C f W') u) with (step (dim c) f u).
  rewrite linear_in_query. pose proof (valid_seq_len c V).
  eapply Rle_trans; [apply output_le with (sA := s_A c) (D := largest_step c)
    (Bw := B_w c) (Bq := epsilon * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)|].
  - apply F.
  - rewrite (norm_ext _ _ (matvec (dim c) (fun n j => W_C f n j - W' n j)
      (u (seq_len c - 1)%nat))) by (intros; apply matvec_minus).
    eapply Rle_trans; [apply H|]. apply Rmult_le_compat_l; [easy | apply U; lia].
  - intros t tT. now apply keys_within.
  - exact U.
  - now apply steps_in_class.
  - now apply state_matrix_within.
  - right. unfold class_output_sum. ring.
Qed.
