(** How far the output moves with the gate and with the tokens (docs/bounds.md, Lemma 5:
    p, q and tokens). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors StepSums DecayingSums Softplus Model OutputBound
  StateSensitivity LinearSensitivity.
Open Scope R_scope.

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
