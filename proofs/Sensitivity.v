(** How far the output moves with each parameter and with the tokens
    (docs/bounds.md, Lemmas 4 and 5). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors StepSums Softplus Model OutputBound.
Open Scope R_scope.

Definition class_decaying_sum (c : constants) : R :=
  decaying_sum (s_A c) (largest_step c) (seq_len c).
Definition class_absolute_sum (c : constants) : R :=
  absolute_sum (s_A c) (largest_step c) (seq_len c).

Lemma class_gain_nonneg c : valid c -> 0 <= B_w c * gain c.
Proof.
  intros V. destruct V as [u0 _ [B0 _] [C0 _] _ [w0 _] _ _ _ _ _]. unfold gain.
  pose proof (pow_le (B_u c) 3 u0). apply Rmult_le_pos; [easy|].
  apply Rmult_le_pos; [|easy]. now apply Rmult_le_pos.
Qed.

Lemma tau_nonneg D T delta t : steps_within D T delta -> 0 <= tau T delta t.
Proof.
  intros H. unfold tau. apply sum_nonneg. intros r rT. destruct (t <? r)%nat; [|lra].
  left. now apply H.
Qed.

(** What a change of the decay factors moves, given their change at each tau. *)
Lemma decay_moves d N T w query keys values delta A A' Bw Bq Bk Bv K :
  (0 < T)%nat ->
  norm d w <= Bw -> norm N query <= Bq ->
  (forall t, (t < T)%nat -> norm N (keys t) <= Bk) ->
  (forall t, (t < T)%nat -> norm d (values t) <= Bv) ->
  (forall t, (t < T)%nat -> 0 <= delta t) ->
  (forall t, (t < T)%nat -> 0 <= K (tau T delta t)) ->
  (forall t j n, (t < T)%nat -> (j < d)%nat -> (n < N)%nat ->
    Rabs (exp (A j n * tau T delta t) - exp (A' j n * tau T delta t)) <= K (tau T delta t)) ->
  Rabs (output d N T w query A keys values delta - output d N T w query A' keys values delta)
  <= \sum_(t < T) (delta t * K (tau T delta t)) * ((Bw * Bv) * (Bq * Bk)).
Proof.
  intros T0 Hw Hq Hk Hv Hd K0 HK. rewrite !output_form, form_minus.
  eapply form_bound; eauto.
  - intros t tT. now apply Rmult_le_pos; auto.
  - intros t j n tT jd nN. rewrite <- Rmult_minus_distr_l, Rabs_mult, Rabs_pos_eq by auto.
    apply Rmult_le_compat_l; auto.
Qed.

(** ** Lemma 4: the states *)

(** The scale phi_eta: logarithmic far from zero, linear near it and for a > 0. *)
Definition scale (eta a : R) : R :=
  if Rle_dec a 0 then - ln (eta - a) else a / eta - ln eta.

(** phi_eta' = 1 / (eta + |a|) for a <= 0 and 1 / eta for a > 0. *)
Theorem scale_derivative eta a :
  0 <= eta ->
  (a < 0 -> is_derive (scale eta) a (1 / (eta + Rabs a)))
  /\ (0 < eta -> 0 <= a -> is_derive (scale eta) a (1 / eta)).
Proof.
  intros eta0.
  assert (left : forall x, x < eta -> is_derive (fun x => - ln (eta - x)) x (1 / (eta - x))).
  { intros x lt. auto_derive; [lra|]. field. lra. }
  assert (right : forall x, 0 < eta -> is_derive (fun x => x / eta - ln eta) x (1 / eta)).
  { intros x pos. auto_derive; [easy|]. field. lra. }
  split.
  - intros neg. rewrite Rabs_left by easy. replace (eta + - a) with (eta - a) by ring.
    apply is_derive_ext_loc with (fun x => - ln (eta - x)); [|apply left; lra].
    assert (pos : 0 < - a) by lra. exists (mkposreal _ pos). intros x B.
    unfold ball in B. simpl in B. unfold AbsRing_ball, abs, minus, plus, opp in B. simpl in B.
    apply Rabs_def2 in B. unfold scale. destruct (Rle_dec x 0); [easy | lra].
  - intros pos [a0|<-].
    + apply is_derive_ext_loc with (fun x => x / eta - ln eta); [|now apply right].
      exists (mkposreal _ a0). intros x B.
      unfold ball in B. simpl in B. unfold AbsRing_ball, abs, minus, plus, opp in B. simpl in B.
      apply Rabs_def2 in B. unfold scale. destruct (Rle_dec x 0); [lra | easy].
    + (* at zero the two branches have one value and one slope *)
      specialize (left 0 pos). specialize (right 0 pos). rewrite Rminus_0_r in left.
      apply is_derive_Reals in left, right. apply is_derive_Reals.
      intros eps Heps. destruct (left eps Heps) as [a Ha]. destruct (right eps Heps) as [b Hb].
      assert (m0 : 0 < Rmin a b) by (apply Rmin_pos; [apply a | apply b]).
      exists (mkposreal _ m0). intros h h0 hm. simpl in hm.
      assert (value : scale eta 0 = - ln eta).
      { unfold scale. destruct (Rle_dec 0 0); [|lra]. now rewrite Rminus_0_r. }
      rewrite value. unfold scale. destruct (Rle_dec (0 + h) 0).
      * specialize (Ha h h0). rewrite Rminus_0_r in Ha. apply Ha.
        eapply Rlt_le_trans; [apply hm | apply Rmin_l].
      * specialize (Hb h h0). unfold Rdiv at 4 in Hb.
        replace (0 / eta - ln eta) with (- ln eta) in Hb by (field; lra). apply Hb.
        eapply Rlt_le_trans; [apply hm | apply Rmin_r].
Qed.

(** What one token's decay factor moves per unit of phi. *)
Definition decay_slope (sA eta x : R) : R := worst_decay sA x + eta * (x * exp (sA * x)).

Lemma decay_slope_nonneg sA eta x : 0 <= eta -> 0 <= x -> 0 <= decay_slope sA eta x.
Proof.
  intros eta0 x0. apply Rplus_le_le_0_compat; [apply worst_decay_nonneg|].
  repeat apply Rmult_le_pos; [easy | easy | left; apply exp_pos].
Qed.

Lemma decay_moves_left sA eta x a b :
  0 <= eta -> 0 <= x -> a <= b -> b <= sA -> b <= 0 -> b < eta ->
  exp (b * x) - exp (a * x) <= decay_slope sA eta x * (- ln (eta - b) - - ln (eta - a)).
Proof.
  intros eta0 x0 ab bs b0 be. set (K := decay_slope sA eta x).
  set (f := fun y => K * - ln (eta - y) - exp (y * x)).
  enough (0 * (b - a) <= f b - f a) by (unfold f in *; lra).
  apply (increase_at_least f (fun y => K / (eta - y) - x * exp (y * x))); [easy | |].
  - intros y Hy. unfold f. auto_derive; [lra|]. field. lra.
  - intros y Hy. enough (x * exp (y * x) <= K / (eta - y)) by lra.
    apply (Rle_div_r (x * exp (y * x))); [lra|].
    replace (x * exp (y * x) * (eta - y))
      with (- y * x * exp (y * x) + eta * (x * exp (y * x))) by ring.
    apply Rplus_le_compat.
    + destruct (worst_decay_is_the_maximum sA x x0) as [H _].
      specialize (H y). rewrite Rabs_left1 in H by lra. apply H.
      apply Rmin_glb; lra.
    + repeat apply Rmult_le_compat_l; [easy | easy | apply exp_le]. nra.
Qed.

Lemma decay_moves_right sA eta x a b :
  0 < eta -> 0 <= x -> a <= b -> b <= sA -> 0 <= a ->
  exp (b * x) - exp (a * x) <= decay_slope sA eta x * (b / eta - a / eta).
Proof.
  intros eta0 x0 ab bs a0. set (K := decay_slope sA eta x).
  set (f := fun y => K * (y / eta) - exp (y * x)).
  enough (0 * (b - a) <= f b - f a) by (unfold f in *; lra).
  apply (increase_at_least f (fun y => K / eta - x * exp (y * x))); [easy | |].
  - intros y Hy. unfold f. auto_derive; [easy|]. field. lra.
  - intros y Hy. enough (x * exp (y * x) <= K / eta) by lra.
    apply (Rle_div_r (x * exp (y * x))); [easy|]. rewrite Rmult_comm. unfold K, decay_slope.
    pose proof (worst_decay_nonneg sA x).
    enough (eta * (x * exp (y * x)) <= eta * (x * exp (sA * x))) by lra.
    repeat apply Rmult_le_compat_l; [lra | easy | apply exp_le]. nra.
Qed.

Lemma decay_moves_ordered sA eta x a b :
  0 <= eta -> (sA < 0 \/ 0 < eta) -> 0 <= x -> a <= b -> b <= sA ->
  exp (b * x) - exp (a * x) <= decay_slope sA eta x * (scale eta b - scale eta a).
Proof.
  intros eta0 domain x0 ab bs. unfold scale.
  destruct (Rle_dec b 0) as [b0|b0]; destruct (Rle_dec a 0) as [a0|a0];
    try apply Rnot_le_lt in b0; try apply Rnot_le_lt in a0; try lra.
  - apply decay_moves_left; destruct domain; lra.
  - assert (0 < eta) by (destruct domain; lra).
    pose proof (decay_moves_left sA eta x a 0) as L.
    pose proof (decay_moves_right sA eta x 0 b) as R.
    rewrite Rminus_0_r in L. replace (0 / eta) with 0 in R by (field; lra).
    specialize (L eta0 x0 ltac:(lra) ltac:(lra) ltac:(lra) ltac:(lra)).
    specialize (R ltac:(lra) x0 ltac:(lra) ltac:(lra) ltac:(lra)). nra.
  - assert (0 < eta) by (destruct domain; lra).
    replace (b / eta - ln eta - (a / eta - ln eta)) with (b / eta - a / eta) by ring.
    apply decay_moves_right; lra.
Qed.

Lemma decay_moves_by sA eta x a b :
  0 <= eta -> (sA < 0 \/ 0 < eta) -> 0 <= x -> a <= sA -> b <= sA ->
  Rabs (exp (a * x) - exp (b * x)) <= decay_slope sA eta x * Rabs (scale eta a - scale eta b).
Proof.
  intros eta0 domain x0 as_ bs. pose proof (decay_slope_nonneg sA eta x eta0 x0).
  destruct (Rle_lt_dec a b) as [le|lt].
  - pose proof (decay_moves_ordered sA eta x a b eta0 domain x0 le bs).
    assert (exp (a * x) <= exp (b * x)) by (apply exp_le; nra).
    rewrite Rabs_left1 by lra. pose proof (Rle_abs (- (scale eta a - scale eta b))) as M.
    rewrite Rabs_Ropp in M. nra.
  - pose proof (decay_moves_ordered sA eta x b a eta0 domain x0 ltac:(lra) as_).
    assert (exp (b * x) <= exp (a * x)) by (apply exp_le; nra).
    rewrite Rabs_pos_eq by lra. pose proof (Rle_abs (scale eta a - scale eta b)). nra.
Qed.

(** The member f with another state matrix. *)
Definition with_A (f : model) A := {|
  head := head f; W_B := W_B f; W_C := W_C f; state_matrix := A;
  gate_bias := gate_bias f; gate := gate f |}.

(** Lemma 4. If every entry of A moves by at most epsilon on the scale phi_eta, then z moves by
    at most epsilon B_w G (S2 + eta S3). eta may be any number >= 0; eta = 0 needs s_A < 0. *)
Theorem lemma_4 c f A' u eta epsilon :
  valid c -> in_class c f -> in_class c (with_A f A') -> tokens_within c u ->
  0 <= eta -> (s_A c < 0 \/ 0 < eta) -> 0 <= epsilon ->
  (forall j n, (j < dim c)%nat -> (n < states c)%nat ->
    Rabs (scale eta (state_matrix f j n) - scale eta (A' j n)) <= epsilon) ->
  Rabs (class_logit c f u - class_logit c (with_A f A') u)
  <= epsilon * (B_w c * gain c * (class_decaying_sum c + eta * class_absolute_sum c)).
Proof.
  intros V F F' U eta0 domain eps0 moves. unfold class_logit, logit. simpl.
  change (step (dim c) (with_A f A') u) with (step (dim c) f u).
  pose proof (steps_in_class c f u V F U) as H. set (delta := step (dim c) f u) in *.
  set (T := seq_len c) in *. pose proof (valid_seq_len c V) as T0.
  eapply Rle_trans; [apply (decay_moves (dim c) (states c) T) with
    (Bw := B_w c) (Bq := B_C c * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)
    (K := fun x => epsilon * decay_slope (s_A c) eta x)|].
  - easy.
  - apply F.
  - now apply query_within.
  - intros t tT. now apply keys_within.
  - exact U.
  - intros t tT. left. now apply H.
  - intros t _. apply Rmult_le_pos; [easy|].
    apply decay_slope_nonneg; [easy|]. now apply (tau_nonneg (largest_step c)).
  - intros t j n _ jd nN. rewrite (Rmult_comm epsilon).
    pose proof (tau_nonneg _ T delta t H) as x0.
    eapply Rle_trans; [apply (decay_moves_by (s_A c) eta); auto|].
    + now apply (class_A c f F).
    + now apply (class_A c _ F').
    + apply Rmult_le_compat_l; [now apply decay_slope_nonneg | now apply moves].
  - rewrite (sum_ext T _ (fun t => epsilon * (delta t * worst_decay (s_A c) (tau T delta t)
      + eta * (delta t * (tau T delta t * exp (s_A c * tau T delta t))))))
      by (intros; unfold decay_slope; ring).
    rewrite sum_scal, sum_plus, sum_scal.
    replace (B_w c * B_u c * (B_C c * B_u c * (B_B c * B_u c))) with (B_w c * gain c)
      by (unfold gain; ring).
    rewrite Rmult_assoc. apply Rmult_le_compat_l; [easy|]. rewrite (Rmult_comm _ (B_w c * gain c)).
    apply Rmult_le_compat_l.
    { now apply class_gain_nonneg. }
    apply Rplus_le_compat; [now apply lemma_2|].
    apply Rmult_le_compat_l; [easy | now apply lemma_3].
Qed.

(** Lemma 4 on the plain scale (eta = infinity): if every entry of A moves by at most epsilon,
    z moves by at most epsilon B_w G S3. *)
Theorem lemma_4_plain c f A' u epsilon :
  valid c -> in_class c f -> in_class c (with_A f A') -> tokens_within c u -> 0 <= epsilon ->
  (forall j n, (j < dim c)%nat -> (n < states c)%nat ->
    Rabs (state_matrix f j n - A' j n) <= epsilon) ->
  Rabs (class_logit c f u - class_logit c (with_A f A') u)
  <= epsilon * (B_w c * gain c * class_absolute_sum c).
Proof.
  intros V F F' U eps0 moves. unfold class_logit, logit. simpl.
  change (step (dim c) (with_A f A') u) with (step (dim c) f u).
  pose proof (steps_in_class c f u V F U) as H. set (delta := step (dim c) f u) in *.
  set (T := seq_len c) in *. pose proof (valid_seq_len c V) as T0.
  assert (lip : forall x a b, 0 <= x -> a <= b <= s_A c ->
    exp (b * x) - exp (a * x) <= (x * exp (s_A c * x)) * (b - a)).
  { intros x a b x0 Hab.
    pose proof (increase_at_least (fun y => (x * exp (s_A c * x)) * y - exp (y * x))
      (fun y => x * exp (s_A c * x) - x * exp (y * x)) a b 0 ltac:(lra)) as I.
    enough (0 * (b - a) <= x * exp (s_A c * x) * b - exp (b * x)
                           - (x * exp (s_A c * x) * a - exp (a * x))) by lra.
    apply I.
    - intros y _. auto_derive; [easy | ring].
    - intros y Hy. assert (exp (y * x) <= exp (s_A c * x)) by (apply exp_le; nra). nra. }
  eapply Rle_trans; [apply (decay_moves (dim c) (states c) T) with
    (Bw := B_w c) (Bq := B_C c * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)
    (K := fun x => epsilon * (x * exp (s_A c * x)))|].
  - easy.
  - apply F.
  - now apply query_within.
  - intros t tT. now apply keys_within.
  - exact U.
  - intros t tT. left. now apply H.
  - intros t _. repeat apply Rmult_le_pos; [easy | | left; apply exp_pos].
    now apply (tau_nonneg (largest_step c)).
  - intros t j n _ jd nN. pose proof (tau_nonneg _ T delta t H) as x0.
    destruct (class_A c f F j n jd nN) as [_ as_].
    destruct (class_A c _ F' j n jd nN) as [_ bs]. simpl in bs.
    specialize (moves j n jd nN).
    set (a := state_matrix f j n) in *. set (b := A' j n) in *. set (x := tau T delta t) in *.
    assert (0 <= x * exp (s_A c * x)) by (apply Rmult_le_pos; [easy | left; apply exp_pos]).
    destruct (Rle_lt_dec a b) as [le|lt].
    + pose proof (lip x a b x0 ltac:(lra)).
      assert (exp (a * x) <= exp (b * x)) by (apply exp_le; nra).
      rewrite Rabs_left1 in * by lra. nra.
    + pose proof (lip x b a x0 ltac:(lra)).
      assert (exp (b * x) <= exp (a * x)) by (apply exp_le; nra).
      rewrite Rabs_pos_eq in * by lra. nra.
  - rewrite (sum_ext T _ (fun t => epsilon *
      (delta t * (tau T delta t * exp (s_A c * tau T delta t))))) by (intros; ring).
    rewrite sum_scal.
    replace (B_w c * B_u c * (B_C c * B_u c * (B_B c * B_u c))) with (B_w c * gain c)
      by (unfold gain; ring).
    rewrite Rmult_assoc. apply Rmult_le_compat_l; [easy|]. rewrite (Rmult_comm _ (B_w c * gain c)).
    apply Rmult_le_compat_l.
    { now apply class_gain_nonneg. }
    now apply lemma_3.
Qed.

(** The length of [-B_A, s_A] on the scale phi_eta. *)
Definition scale_length (B_A s_A eta : R) : R :=
  if Rlt_dec s_A 0 then ln ((eta + B_A) / (eta - s_A)) else ln (1 + B_A / eta) + s_A / eta.

Theorem scale_length_is_the_length B s eta :
  - B <= s -> 0 <= eta -> (s < 0 \/ 0 < eta) -> 0 <= B ->
  scale eta s - scale eta (- B) = scale_length B s eta.
Proof.
  intros Bs eta0 domain B0. unfold scale_length, scale.
  destruct (Rle_dec (- B) 0) as [_|]; [|lra].
  replace (eta - - B) with (eta + B) by ring.
  destruct (Rlt_dec s 0) as [neg|pos].
  - destruct (Rle_dec s 0); [|lra]. rewrite ln_div by lra. lra.
  - replace (1 + B / eta) with ((eta + B) / eta) by (field; lra). rewrite ln_div by lra.
    destruct (Rle_dec s 0).
    + replace s with 0 by lra. rewrite Rminus_0_r. field. lra.
    + lra.
Qed.

(** ** Lemma 5: parameters in which the output is linear *)

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

(** ** Lemma 5: the gate *)

Lemma mean_value_bound (f df : R -> R) M :
  (forall x, 0 <= x <= 1 -> is_derive f x (df x)) ->
  (forall x, 0 <= x <= 1 -> Rabs (df x) <= M) -> Rabs (f 1 - f 0) <= M.
Proof.
  intros D B. apply Rabs_le_between.
  pose proof (increase_at_least f df 0 1 (- M) ltac:(lra) D) as L.
  pose proof (increase_at_least (fun x => - f x) (fun x => - df x) 0 1 (- M) ltac:(lra)) as U.
  assert (forall x, 0 <= x <= 1 -> - M <= df x <= M) as between
    by (intros x Hx; now apply Rabs_le_between, B).
  specialize (L ltac:(intros x Hx; apply between, Hx)).
  specialize (U ltac:(intros x Hx; apply (is_derive_opp f), D, Hx)).
  specialize (U ltac:(intros x Hx; destruct (between x Hx); lra)). lra.
Qed.

Section Gate.

Variables (d N T : nat) (w query : nat -> R) (A : nat -> nat -> R).
Variables (keys values : nat -> nat -> R) (x x' : nat -> R).
Variables (Bw Bq Bk Bv sA largest h : R).
Hypotheses (T0 : (0 < T)%nat) (h0 : 0 <= h).
Hypotheses (Hw : norm d w <= Bw) (Hq : norm N query <= Bq).
Hypothesis (Hk : forall t, (t < T)%nat -> norm N (keys t) <= Bk).
Hypothesis (Hv : forall t, (t < T)%nat -> norm d (values t) <= Bv).
Hypothesis (HA : forall j n, (j < d)%nat -> (n < N)%nat -> A j n <= sA).
Hypothesis (moves : forall t, (t < T)%nat -> Rabs (x' t - x t) <= h).
Hypothesis (below : forall t, (t < T)%nat -> x t <= largest /\ x' t <= largest).

(** Step logits on the way from x to x', their steps, and the slopes of those. *)
Let logit_at (y : R) (t : nat) : R := x t + y * (x' t - x t).
Let step_at (y : R) (t : nat) : R := softplus (logit_at y t).
Let step_slope (y : R) (t : nat) : R := (1 - exp (- step_at y t)) * (x' t - x t).
Let tau_slope (y : R) (t : nat) : R :=
  \sum_(r < T) (if (t <? r)%nat then step_slope y r else 0).

Lemma steps_on_the_way y : 0 <= y <= 1 -> steps_within (softplus largest) T (step_at y).
Proof.
  intros Hy t tT. split; [apply softplus_pos|]. apply softplus_le. unfold logit_at.
  destruct (below t tT). nra.
Qed.

(** The relative form: a step moves by at most h times itself. *)
Lemma step_slope_le y t : (t < T)%nat -> Rabs (step_slope y t) <= h * step_at y t.
Proof.
  intros tT. unfold step_slope. destruct (softplus_derivative (logit_at y t)) as [_ [[p le] _]].
  fold (step_at y t) in *. rewrite Rabs_mult, Rabs_pos_eq by lra. rewrite Rmult_comm.
  apply Rmult_le_compat; [apply Rabs_pos | lra | now apply moves | easy].
Qed.

Lemma tau_slope_le y t : Rabs (tau_slope y t) <= h * tau T (step_at y) t.
Proof.
  unfold tau_slope, tau. rewrite <- sum_scal. eapply Rle_trans; [apply sum_abs|].
  apply sum_le. intros r rT. destruct (t <? r)%nat; [now apply step_slope_le|].
  rewrite Rabs_R0. lra.
Qed.

Lemma step_at_derive y t : is_derive (fun y => step_at y t) y (step_slope y t).
Proof.
  eapply is_derive_eq; [apply (is_derive_comp softplus (fun y => logit_at y t))|].
  - exact (proj1 (softplus_derivative (logit_at y t))).
  - unfold logit_at. auto_derive; [easy | reflexivity].
  - unfold step_slope, step_at, scal. simpl. unfold mult. simpl. ring.
Qed.

Lemma tau_derive y t : is_derive (fun y => tau T (step_at y) t) y (tau_slope y t).
Proof.
  unfold tau, tau_slope.
  apply (is_derive_sum T (fun r y => if (t <? r)%nat then step_at y r else 0)
                         (fun r y => if (t <? r)%nat then step_slope y r else 0)).
  intros r _. destruct (t <? r)%nat; [apply step_at_derive | apply (is_derive_const 0)].
Qed.

Let factor_slope (y : R) (t j n : nat) : R :=
  (step_slope y t + step_at y t * (A j n * tau_slope y t)) * exp (A j n * tau T (step_at y) t).

Lemma factor_derive y t j n :
  is_derive (fun y => step_at y t * exp (A j n * tau T (step_at y) t)) y (factor_slope y t j n).
Proof.
  eapply is_derive_eq.
  - apply (is_derive_mult (fun y => step_at y t) (fun y => exp (A j n * tau T (step_at y) t)));
      [apply step_at_derive | | intros; apply Rmult_comm].
    apply (is_derive_comp exp (fun y => A j n * tau T (step_at y) t)).
    + apply is_derive_Reals, derivable_pt_lim_exp.
    + apply (is_derive_scal (fun y => tau T (step_at y) t)), tau_derive.
  - unfold factor_slope, scal, plus, mult. simpl. unfold mult. simpl. ring.
Qed.

Lemma factor_slope_le y t j n :
  0 <= y <= 1 -> (t < T)%nat -> (j < d)%nat -> (n < N)%nat ->
  let z := tau T (step_at y) t in
  Rabs (factor_slope y t j n)
  <= h * (step_at y t * (exp (sA * z) + worst_decay sA z + Rmax sA 0 * (z * exp (sA * z)))).
Proof.
  intros Hy tT jd nN z. pose proof (steps_on_the_way y Hy) as W.
  unfold factor_slope. pose proof (tau_nonneg _ T (step_at y) t W) as z0.
  pose proof (step_slope_le y t tT) as S. pose proof (tau_slope_le y t) as Z.
  destruct (W t tT) as [s0 _]. specialize (HA j n jd nN).
  fold z in z0, Z |- *. set (s := step_at y t) in *. set (a := A j n) in *.
  assert (inner : Rabs a * z * exp (a * z) <= worst_decay sA z + Rmax sA 0 * (z * exp (sA * z))).
  { assert (0 <= Rmax sA 0 * (z * exp (sA * z))).
    { apply Rmult_le_pos; [apply Rmax_r|]. apply Rmult_le_pos; [easy | left; apply exp_pos]. }
    pose proof (worst_decay_nonneg sA z).
    destruct (Rle_lt_dec a 0) as [neg|pos].
    - destruct (worst_decay_is_the_maximum sA z z0) as [M _].
      pose proof (M a ltac:(apply Rmin_glb; easy)). lra.
    - rewrite Rabs_pos_eq by lra. rewrite (Rmax_left sA 0) in * by lra.
      enough (a * z * exp (a * z) <= sA * (z * exp (sA * z))) by lra.
      rewrite Rmult_assoc. apply Rmult_le_compat; [lra | | easy |].
      + apply Rmult_le_pos; [easy | left; apply exp_pos].
      + apply Rmult_le_compat_l; [easy|]. apply exp_le. nra. }
  pose proof (exp_pos (a * z)) as e0.
  assert (exp (a * z) <= exp (sA * z)) as ee by (apply exp_le; nra).
  rewrite Rabs_mult, (Rabs_pos_eq (exp _)) by lra.
  apply Rle_trans with ((h * s + s * (Rabs a * (h * z))) * exp (a * z)).
  - apply Rmult_le_compat_r; [lra|]. eapply Rle_trans; [apply Rabs_triang|].
    apply Rplus_le_compat; [easy|]. rewrite !Rabs_mult, (Rabs_pos_eq s) by lra.
    apply Rmult_le_compat_l; [lra|]. apply Rmult_le_compat_l; [apply Rabs_pos | easy].
  - replace ((h * s + s * (Rabs a * (h * z))) * exp (a * z))
      with (h * (s * (exp (a * z) + Rabs a * z * exp (a * z)))) by ring.
    apply Rmult_le_compat_l; [easy|]. apply Rmult_le_compat_l; [lra|]. lra.
Qed.

Let path (y : R) : R := output d N T w query A keys values (step_at y).
Let path_slope (y : R) : R :=
  \sum_(t < T) \sum_(j < d) \sum_(n < N)
    (w j * query n * factor_slope y t j n * keys t n * values t j).

Lemma path_derive y : is_derive path y (path_slope y).
Proof.
  set (term := fun t j n y =>
    w j * query n * (step_at y t * exp (A j n * tau T (step_at y) t)) * keys t n * values t j).
  set (slope := fun t j n y => w j * query n * factor_slope y t j n * keys t n * values t j).
  apply is_derive_ext with (fun y => \sum_(t < T) \sum_(j < d) \sum_(n < N) term t j n y).
  { intros z. unfold path. now rewrite output_form. }
  apply (is_derive_sum T (fun t y => \sum_(j < d) \sum_(n < N) term t j n y)
                         (fun t y => \sum_(j < d) \sum_(n < N) slope t j n y)). intros t _.
  apply (is_derive_sum d (fun j y => \sum_(n < N) term t j n y)
                         (fun j y => \sum_(n < N) slope t j n y)). intros j _.
  apply (is_derive_sum N (fun n y => term t j n y) (fun n y => slope t j n y)). intros n _.
  unfold term, slope. pose proof (factor_derive y t j n) as D.
  set (f := fun y => step_at y t * exp (A j n * tau T (step_at y) t)) in D.
  apply is_derive_ext with (fun y => (w j * query n * keys t n * values t j) * f y).
  { intros z. unfold f. refine (_ : @eq R _ _). ring. }
  eapply is_derive_eq; [apply (is_derive_scal f), D | ring].
Qed.

Lemma gate_moves :
  Rabs (output d N T w query A keys values (fun t => softplus (x t))
        - output d N T w query A keys values (fun t => softplus (x' t)))
  <= h * ((Bw * Bv * (Bq * Bk)) *
     (output_sum sA (softplus largest) T + decaying_sum sA (softplus largest) T
      + Rmax sA 0 * absolute_sum sA (softplus largest) T)).
Proof.
  rewrite (output_ext_steps d N T w query A keys values _ (step_at 0))
    by (intros; unfold step_at, logit_at; f_equal; ring).
  rewrite (output_ext_steps d N T w query A keys values (fun t => softplus (x' t)) (step_at 1))
    by (intros; unfold step_at, logit_at; f_equal; ring).
  fold (path 0) (path 1). rewrite Rabs_minus_sym.
  apply (mean_value_bound path path_slope); [intros; apply path_derive|].
  intros y Hy. pose proof (steps_on_the_way y Hy) as W.
  set (worst := fun t => let z := tau T (step_at y) t in
    step_at y t * (exp (sA * z) + worst_decay sA z + Rmax sA 0 * (z * exp (sA * z)))).
  assert (worst0 : forall t, (t < T)%nat -> 0 <= worst t).
  { intros t tT. unfold worst. pose proof (tau_nonneg _ T _ t W) as z0.
    set (z := tau T (step_at y) t) in *. pose proof (worst_decay_nonneg sA z).
    pose proof (exp_pos (sA * z)). pose proof (Rmax_r sA 0). pose proof (W t tT).
    assert (0 <= Rmax sA 0 * (z * exp (sA * z))) by (repeat apply Rmult_le_pos; lra).
    apply Rmult_le_pos; lra. }
  eapply Rle_trans; [apply (form_bound d N T w query keys values Bw Bq Bk Bv Hw Hq Hk Hv)
    with (K := fun t => h * worst t)|].
  - intros t tT. apply Rmult_le_pos; auto.
  - intros t j n tT jd nN. now apply factor_slope_le.
  - rewrite sum_scal, Rmult_assoc. apply Rmult_le_compat_l; [easy|]. rewrite Rmult_comm.
    apply Rmult_le_compat_l.
    { pose proof (norm_nonneg d w). pose proof (norm_nonneg N query).
      pose proof (norm_nonneg N (keys 0%nat)). pose proof (norm_nonneg d (values 0%nat)).
      pose proof (Hk O T0). pose proof (Hv O T0). repeat apply Rmult_le_pos; lra. }
    rewrite (sum_ext T worst (fun t => step_at y t * exp (sA * tau T (step_at y) t)
      + step_at y t * worst_decay sA (tau T (step_at y) t)
      + Rmax sA 0 * (step_at y t * (tau T (step_at y) t * exp (sA * tau T (step_at y) t)))))
      by (intros; unfold worst; ring).
    rewrite sum_plus, sum_plus, sum_scal.
    pose proof (lemma_1 sA _ T _ W). pose proof (lemma_2 sA _ T _ T0 W).
    pose proof (lemma_3 sA _ T _ T0 W). pose proof (Rmax_r sA 0). nra.
Qed.

End Gate.

(** S1 + S2 + s_A^+ S3: what a relative change of all steps moves. *)
Definition relative_sum (c : constants) : R :=
  class_output_sum c + class_decaying_sum c + Rmax (s_A c) 0 * class_absolute_sum c.

Lemma gate_sensitivity c f f' u h :
  valid c -> in_class c f -> in_class c f' -> tokens_within c u -> 0 <= h ->
  (forall t, (t < seq_len c)%nat ->
    Rabs (step_logit (dim c) f' u t - step_logit (dim c) f u t) <= h) ->
  head f' = head f -> W_B f' = W_B f -> W_C f' = W_C f -> state_matrix f' = state_matrix f ->
  Rabs (class_logit c f u - class_logit c f' u) <= h * (B_w c * gain c * relative_sum c).
Proof.
  intros V F F' U h0 moves Ew EB EC EA. unfold class_logit, logit. rewrite Ew, EB, EC, EA.
  eapply Rle_trans; [apply gate_moves with (h := h) (sA := s_A c)
    (largest := p_hi c + B_q c * B_u c)
    (Bw := B_w c) (Bq := B_C c * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)|].
  - apply V.
  - easy.
  - apply F.
  - now apply query_within.
  - intros t tT. now apply keys_within.
  - exact U.
  - now apply state_matrix_within.
  - exact moves.
  - intros t tT. split; now apply logit_of_the_class.
  - right. unfold relative_sum, class_output_sum, class_decaying_sum, class_absolute_sum, gain.
    fold (largest_step c). ring.
Qed.

(** Lemma 5, p: the move times B_w G (S1 + S2 + s_A^+ S3). *)
Theorem lemma_5_p c f p' u :
  valid c -> in_class c f -> in_class c (with_p f p') -> tokens_within c u ->
  Rabs (class_logit c f u - class_logit c (with_p f p') u)
  <= Rabs (p' - gate_bias f) * (B_w c * gain c * relative_sum c).
Proof.
  intros V F F' U. apply gate_sensitivity; auto; [apply Rabs_pos|].
  intros t _. right. unfold step_logit. simpl. f_equal. ring.
Qed.

(** Lemma 5, q: the l2 norm of the move times B_u B_w G (S1 + S2 + s_A^+ S3). *)
Theorem lemma_5_q c f q' u :
  valid c -> in_class c f -> in_class c (with_q f q') -> tokens_within c u ->
  Rabs (class_logit c f u - class_logit c (with_q f q') u)
  <= norm (dim c) (fun j => q' j - gate f j) * (B_u c * (B_w c * gain c * relative_sum c)).
Proof.
  intros V F F' U. rewrite <- Rmult_assoc. apply gate_sensitivity; auto.
  - apply Rmult_le_pos; [apply norm_nonneg | apply V].
  - intros t tT. unfold step_logit. simpl.
    replace (gate_bias f + dot (dim c) q' (u t) - (gate_bias f + dot (dim c) (gate f) (u t)))
      with (dot (dim c) (fun j => q' j - gate f j) (u t)).
    + eapply Rle_trans; [apply dot_le|].
      apply Rmult_le_compat_l; [apply norm_nonneg | now apply U].
    + transitivity (dot (dim c) q' (u t) - dot (dim c) (gate f) (u t)); [|ring].
      unfold dot. rewrite <- sum_minus. apply sum_ext. intros. ring.
Qed.

(** ** Lemma 5: tokens *)

(** Lemma 5, tokens: the largest l2 move of a token times
    B_w B_B B_C B_u^2 (3 S1 + B_u B_q (S1 + S2 + s_A^+ S3)). A token is a value, a key, (the
    last) a query, and sets its step; each of the four is moved in turn. *)
Theorem lemma_5_tokens c f u u' epsilon :
  valid c -> in_class c f -> tokens_within c u -> tokens_within c u' ->
  (forall t, (t < seq_len c)%nat -> norm (dim c) (fun j => u t j - u' t j) <= epsilon) ->
  Rabs (class_logit c f u - class_logit c f u')
  <= epsilon * (B_w c * B_B c * B_C c * B_u c ^ 2 *
       (3 * class_output_sum c + B_u c * B_q c * relative_sum c)).
Proof.
  intros V F U U' moves. unfold class_logit, logit.
  pose proof (valid_seq_len c V) as T0.
  assert (eps0 : 0 <= epsilon).
  { eapply Rle_trans; [apply norm_nonneg | apply (moves O T0)]. }
  set (d := dim c) in *. set (N := states c). set (T := seq_len c) in *.
  set (Q := fun v : nat -> nat -> R => matvec d (W_C f) (v (T - 1)%nat)).
  set (K := fun (v : nat -> nat -> R) t => matvec d (W_B f) (v t)).
  set (z := fun q k v s => output d N T (head f) (Q q) (state_matrix f) (K k) v (step d f s)).
  change (Rabs (z u u u u - z u' u' u' u') <= epsilon * (B_w c * B_B c * B_C c * B_u c ^ 2 *
       (3 * class_output_sum c + B_u c * B_q c * relative_sum c))).
  assert (values_move : Rabs (z u u u u - z u u u' u)
    <= class_output_sum c * ((B_w c * epsilon) * ((B_C c * B_u c) * (B_B c * B_u c)))).
  { unfold z. rewrite linear_in_values. apply output_le.
    - apply F.
    - now apply query_within.
    - intros t tT. now apply keys_within.
    - exact moves.
    - now apply steps_in_class.
    - now apply state_matrix_within. }
  assert (keys_move : Rabs (z u u u' u - z u u' u' u)
    <= class_output_sum c * ((B_w c * B_u c) * ((B_C c * B_u c) * (B_B c * epsilon)))).
  { unfold z. rewrite linear_in_keys. apply output_le.
    - apply F.
    - now apply query_within.
    - intros t tT. unfold K.
      rewrite (norm_ext _ _ (matvec d (W_B f) (fun j => u t j - u' t j)))
        by (intros; apply matvec_minus_r).
      eapply Rle_trans; [apply F|]. apply Rmult_le_compat_l; [apply V | now apply moves].
    - exact U'.
    - now apply steps_in_class.
    - now apply state_matrix_within. }
  assert (query_moves : Rabs (z u u' u' u - z u' u' u' u)
    <= class_output_sum c * ((B_w c * B_u c) * ((B_C c * epsilon) * (B_B c * B_u c)))).
  { unfold z. rewrite linear_in_query. apply output_le.
    - apply F.
    - unfold Q. rewrite (norm_ext _ _
        (matvec d (W_C f) (fun j => u (T - 1)%nat j - u' (T - 1)%nat j)))
        by (intros; apply matvec_minus_r).
      eapply Rle_trans; [apply F|]. apply Rmult_le_compat_l; [apply V | apply moves; lia].
    - intros t tT. now apply keys_within.
    - exact U'.
    - now apply steps_in_class.
    - now apply state_matrix_within. }
  assert (steps_move : Rabs (z u' u' u' u - z u' u' u' u')
    <= B_q c * epsilon * (B_w c * gain c * relative_sum c)).
  { unfold z. eapply Rle_trans; [apply gate_moves with (h := B_q c * epsilon) (sA := s_A c)
      (largest := p_hi c + B_q c * B_u c)
      (Bw := B_w c) (Bq := B_C c * B_u c) (Bk := B_B c * B_u c) (Bv := B_u c)|].
    - easy.
    - apply Rmult_le_pos; [apply V | easy].
    - apply F.
    - now apply query_within.
    - intros t tT. now apply keys_within.
    - exact U'.
    - now apply state_matrix_within.
    - intros t tT. unfold step_logit.
      replace (gate_bias f + dot d (gate f) (u' t) - (gate_bias f + dot d (gate f) (u t)))
        with (- dot d (gate f) (fun j => u t j - u' t j)).
      + rewrite Rabs_Ropp. eapply Rle_trans; [apply dot_le|].
        apply Rmult_le_compat; try apply norm_nonneg; [apply F | now apply moves].
      + transitivity (dot d (gate f) (u' t) - dot d (gate f) (u t)); [|ring].
        unfold dot. rewrite <- sum_minus.
        rewrite (sum_ext d (fun k => gate f k * u' t k - gate f k * u t k)
          (fun j => (-1) * (gate f j * (u t j - u' t j)))) by (intros; ring).
        rewrite sum_scal. ring.
    - intros t tT. split; now apply logit_of_the_class.
    - right. unfold relative_sum, class_output_sum, class_decaying_sum, class_absolute_sum, gain.
      fold (largest_step c) T. ring. }
  replace (z u u u u - z u' u' u' u') with
    ((z u u u u - z u u u' u) + (z u u u' u - z u u' u' u)
     + (z u u' u' u - z u' u' u' u) + (z u' u' u' u - z u' u' u' u')) by ring.
  eapply Rle_trans; [apply Rabs_triang|].
  eapply Rle_trans; [apply Rplus_le_compat_r, Rabs_triang|].
  eapply Rle_trans; [apply Rplus_le_compat_r, Rplus_le_compat_r, Rabs_triang|].
  unfold gain in steps_move. lra.
Qed.
