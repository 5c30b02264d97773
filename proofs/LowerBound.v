(** The lower bound (docs/bounds.md, Theorem 4, lower part). *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Binomials Vectors Means Rademacher Model OutputBound.
Import ListNotations.
Open Scope R_scope.

(** The sum of a list of signs, and E|sigma_1 + ... + sigma_m|. *)
Fixpoint list_sum (l : list R) : R :=
  match l with
  | [] => 0
  | a :: rest => a + list_sum rest
  end.

Definition mean_absolute_sign_sum (m : nat) : R := mean (signs m) (fun s => Rabs (list_sum s)).

(** h = ceil(m / 2), and 2 h C(m, h) / 2^m. *)
Definition half_up (m : nat) : nat := Nat.div2 (m + 1).
Definition absolute_sign_sum_formula (m : nat) : R :=
  2 * INR (half_up m) * choose m (half_up m) / 2 ^ m.


(** The number of minus signs is binomial. *)
Theorem sign_sum_is_binomial m g :
  mean (signs m) (fun s => g (list_sum s))
  = \sum_(k < S m) (choose m k * g (INR m - 2 * INR k)) / 2 ^ m.
Proof.
  revert g. induction m as [|m IH]; intros g.
  - unfold mean. simpl. rewrite C_0. replace (0 - 2 * 0) with 0 by ring. field.
  - rewrite mean_signs. simpl list_sum.
    rewrite (IH (fun x => g (1 + x))), (IH (fun x => g (-1 + x))), pascal_sum.
    rewrite (sum_ext (S m) (fun k => choose m k * (_ + _)) (fun k =>
      choose m k * g (1 + (INR m - 2 * INR k)) + choose m k * g (-1 + (INR m - 2 * INR k)))).
    + rewrite sum_plus. simpl pow. field. apply pow_nonzero. lra.
    + intros k _. rewrite !S_INR. rewrite Rmult_plus_distr_l.
      f_equal; f_equal; f_equal; ring.
Qed.

(** E|sum of signs| as its exact binomial sum. *)
Theorem absolute_sign_sum_is_binomial m :
  mean_absolute_sign_sum m = \sum_(k < S m) (choose m k * Rabs (INR m - 2 * INR k)) / 2 ^ m.
Proof. apply (sign_sum_is_binomial m Rabs). Qed.

(** ** The closed form *)

(** C(m, k) (m - 2k) telescopes. *)
Lemma C_telescopes n k :
  (S k <= n)%nat ->
  choose (S n) (S k) * (INR (S n) - 2 * INR (S k)) = INR (S n) * (choose n (S k) - choose n k).
Proof.
  intros le. unfold Binomial.C. replace (S n - S k)%nat with (n - k)%nat by lia.
  replace (n - k)%nat with (S (n - S k)) by lia.
  assert (E : INR (S (n - S k)) = INR n - INR k).
  { rewrite S_INR, minus_INR, S_INR by lia. ring. }
  assert (0 < INR n - INR k) by (rewrite <- E; apply lt_0_INR; lia).
  pose proof (pos_INR k).
  rewrite (fact_simpl n), (fact_simpl k), (fact_simpl (n - S k)), !mult_INR, E, !S_INR.
  field. repeat split; try apply INR_fact_neq_0; lra.
Qed.

Lemma first_half n h :
  (S h <= n)%nat ->
  \sum_(k < S h) (choose (S n) k * (INR (S n) - 2 * INR k)) = INR (S n) * choose n h.
Proof.
  induction h as [|h IH]; intros le.
  - cbn [sum]. rewrite !C_0. change (INR 0) with 0. ring.
  - cbn [sum] in *. rewrite IH, C_telescopes by lia. ring.
Qed.

(** Both halves of the binomial sum are equal. *)
Lemma folded m h :
  (h + h = m \/ h + h = S m)%nat ->
  \sum_(k < S m) (choose m k * Rabs (INR m - 2 * INR k))
  = 2 * \sum_(k < h) (choose m k * (INR m - 2 * INR k)).
Proof.
  intros H. set (f := fun k => choose m k * Rabs (INR m - 2 * INR k)).
  assert (low : forall k, (k < h)%nat -> f k = choose m k * (INR m - 2 * INR k)).
  { intros k kh. unfold f. rewrite Rabs_pos_eq; [easy|].
    assert (k + k <= m)%nat as le by lia. apply le_INR in le. rewrite plus_INR in le. lra. }
  assert (mirror : forall k, (k <= m)%nat -> f (m - k)%nat = f k).
  { intros k le. unfold f. rewrite C_symmetric, minus_INR by easy.
    rewrite <- Rabs_Ropp. f_equal. f_equal. ring. }
  rewrite <- (sum_ext h f _ low). replace (2 * sum h f) with (sum h f + sum h f) by ring.
  destruct H as [E|E].
  - replace (S m) with (h + S h)%nat by lia. rewrite sum_split. f_equal.
    rewrite sum_first. replace (f (h + 0)%nat) with 0.
    2:{ unfold f. rewrite Nat.add_0_r, <- E, plus_INR.
        replace (INR h + INR h - 2 * INR h) with 0 by ring. rewrite Rabs_R0. ring. }
    rewrite Rplus_0_l, (sum_reverse h f). apply sum_ext. intros k kh.
    rewrite <- (mirror (h + S k)%nat) by lia. f_equal. lia.
  - rewrite <- E, sum_split. f_equal. rewrite (sum_reverse h f). apply sum_ext. intros k kh.
    rewrite <- (mirror (h + k)%nat) by lia. f_equal. lia.
Qed.

(** Theorem 4: E|sigma_1 + ... + sigma_m| = 2 h C(m, h) 2^{-m} with h = ceil(m / 2). *)
Theorem absolute_sign_sum_closed m : mean_absolute_sign_sum m = absolute_sign_sum_formula m.
Proof.
  rewrite absolute_sign_sum_is_binomial. unfold absolute_sign_sum_formula. f_equal.
  assert (halves : (half_up m + half_up m = m \/ half_up m + half_up m = S m)%nat).
  { unfold half_up. destruct (Nat.Even_or_Odd m) as [[q Hq]|[q Hq]].
    - left. subst m. rewrite Nat.add_1_r, Nat.div2_succ_double. lia.
    - right. subst m. replace (2 * q + 1 + 1)%nat with (2 * (q + 1))%nat by lia.
      rewrite Nat.div2_double. lia. }
  rewrite (folded m (half_up m) halves).
  destruct (half_up m) as [|h] eqn:Eh; [simpl; ring|].
  destruct m as [|n]; [simpl in halves; lia|].
  destruct (Nat.eq_dec (S h) (S n)) as [E|ne].
  - assert (h = 0 /\ n = 0)%nat as [-> ->] by lia. simpl. rewrite !C_0, C_n. ring.
  - rewrite first_half by lia. replace (choose (S n) (S h)) with (INR (S n) / INR (S h) * choose n h).
    + field. apply not_0_INR. lia.
    + unfold Binomial.C. replace (S n - S h)%nat with (n - h)%nat by lia.
      rewrite (fact_simpl n), (fact_simpl h), !mult_INR. field.
      repeat split; try apply INR_fact_neq_0. apply not_0_INR. lia.
Qed.

(** ** Rad >= c E|sum of signs| / m *)

(** Signs times entries of magnitude c are as signs times c. *)
Lemma constant_magnitude m c x g :
  length x = m -> List.Forall (fun a => Rabs a = c) x ->
  mean (signs m) (fun s => g (pairing s x)) = mean (signs m) (fun s => g (c * list_sum s)).
Proof.
  revert x g. induction m as [|m IH]; intros x g L H.
  - apply mean_ext. intros s [<-|[]]. simpl. f_equal. ring.
  - destruct x as [|a x]; [easy|]. apply Forall_cons_iff in H. destruct H as [Ha Hx].
    simpl in L. rewrite !mean_signs. cbn [pairing list_sum].
    rewrite (IH x (fun y => g (1 * a + y))), (IH x (fun y => g (-1 * a + y))) by (auto; lia).
    assert (E : a = c \/ a = - c) by (unfold Rabs in Ha; destruct (Rcase_abs a); lra).
    unfold Rdiv. f_equal. destruct E as [->| ->]; [|rewrite Rplus_comm];
      f_equal; apply mean_ext; intros s _; f_equal; ring.
Qed.

Definition opposite (x : list R) : list R := map Ropp x.

Lemma pairing_opposite s x : pairing s (opposite x) = - pairing s x.
Proof.
  revert x. induction s as [|a s IH]; intros [|b x]; simpl; try ring. rewrite IH. ring.
Qed.

(** A class closed under f -> -f that holds a function of magnitude c at every point of the
    sample has Rad >= c E|sum of signs| / m. *)
Theorem lower_bound m b c F x :
  (0 < m)%nat -> bounded_class m b F ->
  (forall y, F y -> F (opposite y)) ->
  F x -> List.Forall (fun a => Rabs a = c) x ->
  c * mean_absolute_sign_sum m / INR m <= rademacher m F.
Proof.
  intros m0 B closed Fx mag. assert (0 < INR m) by now apply lt_0_INR.
  pose proof (class_length m b F B x Fx) as L.
  assert (c0 : 0 <= c).
  { destruct x as [|a x]; [simpl in L; lia|]. inversion mag; subst. apply Rabs_pos. }
  apply Rle_trans with (mean (signs m) (fun s => Rabs (pairing s x) * / INR m)).
  - rewrite mean_scal_r, (constant_magnitude m c x Rabs L mag). right.
    unfold Rdiv, mean_absolute_sign_sum. f_equal. rewrite <- mean_scal. apply mean_ext.
    intros s _. now rewrite Rabs_mult, (Rabs_pos_eq c).
  - apply mean_le. intros s I. fold (pairing s x / INR m).
    pose proof (complexity_bounded m b F s m0 B I) as up.
    unfold Rabs. destruct (Rcase_abs (pairing s x)).
    + apply (sup_upper _ b); [easy|]. exists (opposite x). split; [now apply closed|].
      now rewrite pairing_opposite.
    + apply (sup_upper _ b); [easy|]. now exists x.
Qed.

(** ** The selective SSM *)

(** The values of the class on a sample of m sequences. *)
Definition values_on (c : constants) (sample : list (nat -> nat -> R)) (x : list R) : Prop :=
  exists f, in_class c f /\ x = map (class_logit c f) sample.

Definition opposite_head (f : model) : model := {|
  head := fun j => - head f j; W_B := W_B f; W_C := W_C f; state_matrix := state_matrix f;
  gate_bias := gate_bias f; gate := gate f |}.

Lemma opposite_head_in_class c f : in_class c f -> in_class c (opposite_head f).
Proof.
  intros F. destruct F. split; auto; simpl.
  - rewrite (norm_ext _ _ (fun j => -1 * head f j)) by (intros; ring).
    rewrite norm_scal, Rabs_left by lra. lra.
  - unfold l1_norm in *. rewrite (sum_ext _ _ (fun j => Rabs (head f j)))
      by (intros; apply Rabs_Ropp). easy.
Qed.

Lemma opposite_head_logit c f u : class_logit c (opposite_head f) u = - class_logit c f u.
Proof.
  unfold class_logit, logit, output.
  change (step (dim c) (opposite_head f) u) with (step (dim c) f u). simpl.
  replace (- \sum_(t < seq_len c) _) with (-1 * \sum_(t < seq_len c)
    (step (dim c) f u t * \sum_(j < dim c) \sum_(n < states c)
      (head f j * matvec (dim c) (W_C f) (u (seq_len c - 1)%nat) n
       * exp (state_matrix f j n * StepSums.tau (seq_len c) (step (dim c) f u) t)
       * matvec (dim c) (W_B f) (u t) n * u t j))) by ring.
  rewrite <- sum_scal. apply sum_ext. intros t _. rewrite <- Rmult_assoc, (Rmult_comm (-1)).
  rewrite Rmult_assoc. f_equal. rewrite <- sum_scal. apply sum_ext. intros j _.
  rewrite <- sum_scal. apply sum_ext. intros n _. ring.
Qed.

Lemma values_on_bounded c sample :
  valid c -> List.Forall (tokens_within c) sample ->
  bounded_class (length sample) (output_bound c) (values_on c sample).
Proof.
  intros V S. split.
  - intros x [f [_ ->]]. apply map_length.
  - intros x [f [F ->]]. apply Forall_map. revert S. apply Forall_impl. intros u U.
    now apply output_within_bound.
  - exists (map (class_logit c (attaining_model c)) sample), (attaining_model c).
    split; [now apply attaining_model_in_class | easy].
Qed.

(** Theorem 4, lower part. On the sample of m copies of the sequence of Proposition 1 the
    complexity of the class is at least b E|sum of signs| / m; so no bound in terms of the
    constants alone can be smaller. *)
Theorem theorem_4_lower c :
  valid c ->
  output_bound c * absolute_sign_sum_formula (samples c) / INR (samples c)
  <= rademacher (samples c) (values_on c (repeat (attaining_tokens c) (samples c))).
Proof.
  intros V. set (m := samples c). set (sample := repeat (attaining_tokens c) m).
  assert (Lm : length sample = m) by apply repeat_length.
  rewrite <- absolute_sign_sum_closed.
  apply (lower_bound m (output_bound c) (output_bound c) (values_on c sample)
    (map (class_logit c (attaining_model c)) sample)).
  - apply V.
  - rewrite <- Lm. apply values_on_bounded; [easy|]. apply Forall_forall. intros u I.
    apply repeat_spec in I. subst u. now apply attaining_tokens_within.
  - intros y [f [F ->]]. exists (opposite_head f). split; [now apply opposite_head_in_class|].
    unfold opposite. rewrite map_map. apply map_ext. intros u. symmetry.
    apply opposite_head_logit.
  - exists (attaining_model c). split; [now apply attaining_model_in_class | easy].
  - apply Forall_map, Forall_forall. intros u I. apply repeat_spec in I. subst u.
    rewrite output_bound_attained by easy. apply Rabs_pos_eq.
    eapply Rle_trans; [apply Rabs_pos|].
    apply (output_within_bound c (attaining_model c) (attaining_tokens c)); [easy | |].
    + now apply attaining_model_in_class.
    + now apply attaining_tokens_within.
Qed.
