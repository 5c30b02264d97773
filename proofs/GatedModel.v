(** The gated state-space model of arXiv 2602.12499 (docs/dynamics.md, "The model"): the recurrence
    is the quadratic form, what noiseless tokens leave of it, and the gradient of its gate at the
    start of training. *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors.
Open Scope R_scope.

Definition sigmoid (x : R) : R := 1 / (1 + exp (- x)).

(** f 0 * ... * f (n - 1). *)
Fixpoint prod (n : nat) (f : nat -> R) : R :=
  match n with
  | O => 1
  | S m => prod m f * f m
  end.

(** G(s, l) = g_s (product over s < j <= l of (1 - g_j)): how much of token s is left at l. *)
Definition remains (g : nat -> R) (s l : nat) : R :=
  g s * prod (l - s) (fun i => 1 - g (s + S i)%nat).

(** ** The recurrence is the quadratic form *)

(** h after the first l tokens: h_l = (1 - g_l) h_{l-1} + g_l x_l b_l^T, from zero. *)
Fixpoint memory (g : nat -> R) (x b : nat -> nat -> R) (l i n : nat) : R :=
  match l with
  | O => 0
  | S r => (1 - g r) * memory g x b r i n + g r * (x r i * b r n)
  end.

(** y_l = h_l (W_C x_l). *)
Definition recurrent_output (N : nat) (g : nat -> R) (x b c : nat -> nat -> R) (l i : nat) : R :=
  \sum_(n < N) (memory g x b (S l) i n * c l n).

(** y_l = the sum over s <= l of G(s, l) (b_s . c_l) x_s. *)
Definition quadratic_output (N : nat) (g : nat -> R) (x b c : nat -> nat -> R) (l i : nat) : R :=
  \sum_(s < S l) (remains g s l * dot N (b s) (c l) * x s i).

Lemma remains_self g l : remains g l l = g l.
Proof. unfold remains. rewrite Nat.sub_diag. simpl. ring. Qed.

Lemma remains_next g s l : (s <= l)%nat -> remains g s (S l) = (1 - g (S l)) * remains g s l.
Proof.
  intros sl. unfold remains. replace (S l - s)%nat with (S (l - s)) by lia. cbn [prod].
  replace (s + S (l - s))%nat with (S l) by lia. ring.
Qed.

Lemma memory_unrolled g x b l i n :
  memory g x b (S l) i n = \sum_(s < S l) (remains g s l * (x s i * b s n)).
Proof.
  induction l as [|l IH].
  - simpl. rewrite remains_self. ring.
  - change (memory g x b (S (S l)) i n) with
      ((1 - g (S l)) * memory g x b (S l) i n + g (S l) * (x (S l) i * b (S l) n)).
    rewrite IH, <- sum_scal.
    change (\sum_(s < S (S l)) (remains g s (S l) * (x s i * b s n))) with
      (\sum_(s < S l) (remains g s (S l) * (x s i * b s n))
       + remains g (S l) (S l) * (x (S l) i * b (S l) n)).
    rewrite remains_self. f_equal. apply sum_ext. intros s sl.
    rewrite remains_next by lia. ring.
Qed.

(** "The model": the quadratic (attention) form equals the recurrence, for any gates, tokens, keys
    and queries, at every position. *)
Theorem quadratic_form_is_the_recurrence N g x b c l i :
  recurrent_output N g x b c l i = quadratic_output N g x b c l i.
Proof.
  unfold recurrent_output, quadratic_output.
  rewrite (sum_ext N _ (fun n => \sum_(s < S l) (remains g s l * (x s i * b s n) * c l n)))
    by (intros; now rewrite memory_unrolled, sum_scal_r).
  rewrite sum_swap. apply sum_ext. intros s _. unfold dot.
  rewrite (Rmult_comm (remains g s l)), Rmult_assoc, <- sum_scal_r. apply sum_ext. intros. ring.
Qed.

(** ** Scores *)

Definition relu (x : R) : R := Rmax 0 x.

(** F(X) = (1/L) the sum over l and i of v_i relu(W_O[i] . y_l), with m hidden units. *)
Definition model_score (d N m L : nat) (v : nat -> R) (W_O W_B W_C : nat -> nat -> R)
    (w : nat -> R) (x : nat -> nat -> R) : R :=
  \sum_(l < L) \sum_(i < m) (v i * relu (dot d (W_O i)
    (recurrent_output N (fun s => sigmoid (dot d w (x s))) x
      (fun s => matvec d W_B (x s)) (fun s => matvec d W_C (x s)) l))) / INR L.

(** A noiseless token is the basis vector of its feature. *)
Definition basis (k j : nat) : R := if (j =? k)%nat then 1 else 0.

Definition clean (features : nat -> nat) (s : nat) : nat -> R := basis (features s).

(** W_B^T W_C = I. *)
Definition mixing_is_identity (d N : nat) (W_B W_C : nat -> nat -> R) : Prop :=
  forall a b, (a < d)%nat -> (b < d)%nat ->
    \sum_(n < N) (W_B n a * W_C n b) = if (a =? b)%nat then 1 else 0.

(** What the readout gives for feature k: a_k = the sum over i of v_i relu(W_O[i, k]). *)
Definition readout (m : nat) (v : nat -> R) (W_O : nat -> nat -> R) (k : nat) : R :=
  \sum_(i < m) (v i * relu (W_O i k)).

Definition same (a b : nat) : R := if (a =? b)%nat then 1 else 0.

(** F as a function of the gating vector's projections w_k on the features:
    (1/L) the sum over s <= l with equal features of a_{f_l} G(s, l). *)
Definition score (L : nat) (a w : nat -> R) (features : nat -> nat) : R :=
  \sum_(l < L) (a (features l) * \sum_(s < S l)
    (same (features s) (features l) * remains (fun s => sigmoid (w (features s))) s l)) / INR L.

Lemma sigmoid_bounds x : 0 < sigmoid x < 1.
Proof.
  unfold sigmoid. pose proof (exp_pos (- x)). split.
  - apply Rdiv_lt_0_compat; lra.
  - apply (Rlt_div_l 1); lra.
Qed.

Lemma prod_nonneg n f : (forall i, 0 <= f i) -> 0 <= prod n f.
Proof.
  intros H. induction n as [|n IH]; simpl; [lra|]. now apply Rmult_le_pos.
Qed.

Lemma remains_nonneg g s l : (forall j, 0 <= g j <= 1) -> 0 <= remains g s l.
Proof.
  intros H. unfold remains. apply Rmult_le_pos; [apply H|]. apply prod_nonneg. intros i.
  specialize (H (s + S i)%nat). lra.
Qed.

Lemma dot_basis d x k : (k < d)%nat -> dot d x (basis k) = x k.
Proof.
  intros kd. unfold dot, basis. rewrite (sum_single d _ k kd), Nat.eqb_refl; [ring|].
  intros j _ ne. apply Nat.eqb_neq in ne. rewrite ne. ring.
Qed.

Lemma matvec_basis d W k i : (k < d)%nat -> matvec d W (basis k) i = W i k.
Proof. intros kd. apply (dot_basis d (W i) k kd). Qed.

Lemma remains_ext g g' s l : (forall j, (j <= l)%nat -> g j = g' j) -> (s <= l)%nat ->
  remains g s l = remains g' s l.
Proof.
  intros H sl. unfold remains. rewrite (H s sl). f_equal.
  assert (E : forall n, (s + n <= l)%nat ->
    prod n (fun i => 1 - g (s + S i)%nat) = prod n (fun i => 1 - g' (s + S i)%nat)).
  { induction n as [|n IH]; intros le; [easy|]. cbn [prod]. rewrite IH, H by lia. easy. }
  apply E. lia.
Qed.

(** On noiseless tokens with W_B^T W_C = I the model's score depends on W_O through the readouts
    of the features alone. *)
Theorem noiseless_score d N m L v W_O W_B W_C w features :
  mixing_is_identity d N W_B W_C -> (forall s, (s < L)%nat -> (features s < d)%nat) ->
  model_score d N m L v W_O W_B W_C w (clean features)
  = score L (readout m v W_O) w features.
Proof.
  intros I Hf. unfold model_score, score. f_equal. apply sum_ext. intros l lL.
  set (g := fun s => sigmoid (dot d w (clean features s))).
  set (c := \sum_(s < S l) (same (features s) (features l)
    * remains (fun s => sigmoid (w (features s))) s l)).
  assert (c0 : 0 <= c).
  { apply sum_nonneg. intros s _. apply Rmult_le_pos.
    - unfold same. destruct (_ =? _)%nat; lra.
    - apply remains_nonneg. intros j. pose proof (sigmoid_bounds (w (features j))). lra. }
  assert (y : forall k, recurrent_output N g (clean features)
      (fun s => matvec d W_B (clean features s)) (fun s => matvec d W_C (clean features s)) l k
      = c * basis (features l) k).
  { intros k. rewrite quadratic_form_is_the_recurrence. unfold quadratic_output, c.
    rewrite <- sum_scal_r. apply sum_ext. intros s sl.
    assert (fs : (features s < d)%nat) by (apply Hf; lia).
    assert (fl : (features l < d)%nat) by now apply Hf.
    assert (inner : dot N (matvec d W_B (clean features s)) (matvec d W_C (clean features l))
                    = same (features s) (features l)).
    { unfold dot, clean. rewrite (sum_ext N _ (fun n => W_B n (features s) * W_C n (features l)))
        by (intros; now rewrite !matvec_basis). now apply I. }
    rewrite inner.
    assert (gates : forall j, (j <= l)%nat -> g j = sigmoid (w (features j))).
    { intros j jl. unfold g, clean. rewrite dot_basis; [easy | apply Hf; lia]. }
    rewrite (remains_ext g (fun s => sigmoid (w (features s))) s l gates) by lia.
    unfold same, clean. destruct (features s =? features l)%nat eqn:E; [|ring].
    apply Nat.eqb_eq in E. rewrite E. ring. }
  unfold readout. rewrite <- sum_scal_r. apply sum_ext. intros i _. rewrite Rmult_assoc. f_equal.
  assert (inner : dot d (W_O i) (recurrent_output N g (clean features)
      (fun s => matvec d W_B (clean features s)) (fun s => matvec d W_C (clean features s)) l)
    = c * W_O i (features l)).
  { unfold dot. rewrite (sum_ext d _ (fun k => c * (W_O i k * basis (features l) k)))
      by (intros; rewrite y; ring).
    rewrite sum_scal. f_equal. apply (dot_basis d (W_O i)). now apply Hf. }
  fold g. rewrite inner. unfold relu. destruct (Rle_lt_dec 0 (W_O i (features l))).
  - rewrite !Rmax_right by nra. ring.
  - rewrite !Rmax_left by nra. ring.
Qed.

(** ** The gradient of the gate at w = 0 *)

(** w = t on feature k and 0 elsewhere. *)
Definition along (k : nat) (t : R) (j : nat) : R := if (j =? k)%nat then t else 0.

(** The number of tokens j, s < j <= l, of feature k. *)
Definition count_after (k : nat) (features : nat -> nat) (s l : nat) : R :=
  \sum_(i < l - s) same (features (s + S i)%nat) k.

(** dF/dw_k at w = 0, where every gate is one half. *)
Definition gate_slope (L : nat) (a : nat -> R) (features : nat -> nat) (k : nat) : R :=
  \sum_(l < L) (a (features l) * \sum_(s < S l)
    (same (features s) (features l)
     * ((1 / 2) ^ S (l - s) * ((same (features s) k - count_after k features s l) / 2)))) / INR L.

Lemma sigmoid_0 : sigmoid 0 = 1 / 2.
Proof. unfold sigmoid. rewrite Ropp_0, exp_0. field. Qed.

Lemma gate_derive k j :
  is_derive (fun t => sigmoid (along k t j)) 0 (same j k / 4).
Proof.
  unfold along, same. destruct (j =? k)%nat.
  - unfold sigmoid. auto_derive.
    + pose proof (exp_pos (- 0)). lra.
    + rewrite Ropp_0, exp_0. field.
  - eapply is_derive_eq; [apply is_derive_const | unfold zero; simpl; lra].
Qed.

Lemma half_at_zero k j : sigmoid (along k 0 j) = 1 / 2.
Proof. unfold along. destruct (j =? k)%nat; apply sigmoid_0. Qed.

Lemma prod_halves n f : (forall i, f i = 1 / 2) -> prod n f = (1 / 2) ^ n.
Proof.
  intros H. induction n as [|n IH]; [easy|]. cbn [prod]. rewrite IH, H. simpl. ring.
Qed.

Lemma remains_derive k features s l :
  is_derive (fun t => remains (fun s => sigmoid (along k t (features s))) s l) 0
    ((1 / 2) ^ S (l - s) * ((same (features s) k - count_after k features s l) / 2)).
Proof.
  unfold remains, count_after. set (n := (l - s)%nat). clearbody n.
  assert (P : is_derive (fun t => prod n (fun i => 1 - sigmoid (along k t (features (s + S i)%nat))))
                0 (- ((1 / 2) ^ n * (\sum_(i < n) same (features (s + S i)%nat) k) / 2))).
  { induction n as [|n IH].
    - simpl. eapply is_derive_eq; [apply is_derive_const | unfold zero; simpl; lra].
    - cbn [prod sum]. eapply is_derive_eq.
      + apply (is_derive_mult
          (fun t => prod n (fun i => 1 - sigmoid (along k t (features (s + S i)%nat))))
          (fun t => 1 - sigmoid (along k t (features (s + S n)%nat))));
          [apply IH | | intros; apply Rmult_comm].
        apply (is_derive_minus (fun _ => 1)); [apply (is_derive_const 1) | apply gate_derive].
      + rewrite prod_halves by (intros; rewrite half_at_zero; lra). rewrite half_at_zero.
        unfold plus, mult, minus, opp, zero. simpl. unfold plus, opp. simpl. field. }
  eapply is_derive_eq.
  - apply (is_derive_mult (fun t => sigmoid (along k t (features s)))
      (fun t => prod n (fun i => 1 - sigmoid (along k t (features (s + S i)%nat)))));
      [apply gate_derive | exact P | intros; apply Rmult_comm].
  - rewrite prod_halves by (intros; rewrite half_at_zero; lra). rewrite half_at_zero.
    unfold plus, mult. simpl. unfold mult. simpl. field.
Qed.

(** The closed form of dF/dw_k at w = 0: token s, kept until l, counts for k with
    1[f_s = k] less the number of k between s and l, each with weight 2^{-(l - s + 1)} / 2. *)
Theorem gate_gradient_at_zero L a features k :
  (0 < L)%nat ->
  is_derive (fun t => score L a (along k t) features) 0 (gate_slope L a features k).
Proof.
  intros L0. assert (0 < INR L) by now apply lt_0_INR. unfold score, gate_slope.
  set (term := fun l t => a (features l) * \sum_(s < S l)
    (same (features s) (features l) * remains (fun s => sigmoid (along k t (features s))) s l)).
  set (slope := fun l (_ : R) => a (features l) * \sum_(s < S l)
    (same (features s) (features l)
     * ((1 / 2) ^ S (l - s) * ((same (features s) k - count_after k features s l) / 2)))).
  apply is_derive_ext with (fun t => / INR L * \sum_(l < L) term l t).
  { intros t. refine (_ : @eq R _ _). unfold term. field. lra. }
  eapply is_derive_eq.
  - apply (is_derive_scal (fun t => \sum_(l < L) term l t)).
    apply (is_derive_sum L term slope). intros l _. unfold term, slope.
    apply (is_derive_scal (fun t => \sum_(s < S l) (same (features s) (features l)
      * remains (fun s => sigmoid (along k t (features s))) s l))).
    apply (is_derive_sum (S l)
      (fun s t => same (features s) (features l)
        * remains (fun s => sigmoid (along k t (features s))) s l)
      (fun s _ => same (features s) (features l)
        * ((1 / 2) ^ S (l - s) * ((same (features s) k - count_after k features s l) / 2)))).
    intros s _. apply (is_derive_scal (fun t => remains _ s l)). apply remains_derive.
  - unfold slope. unfold Rdiv at 1. rewrite Rmult_comm. easy.
Qed.
