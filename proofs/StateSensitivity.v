(** How far the output moves with the state matrix (docs/bounds.md, Lemma 4). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors StepSums DecayingSums Softplus Model OutputBound.
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
