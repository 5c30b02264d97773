(** The sums in which a step is weighted by how much has decayed since
    (docs/bounds.md, "The sums over steps": Lemmas 2 and 3). *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums StepSums.
Open Scope R_scope.

(** ** Lemma 2 *)

(** h(tau) is the maximum of |a| tau e^{a tau} over a <= min(s_A, 0). *)
Theorem worst_decay_is_the_maximum s_A x :
  0 <= x ->
  (forall a, a <= Rmin s_A 0 -> Rabs a * x * exp (a * x) <= worst_decay s_A x)
  /\ (exists a, a <= Rmin s_A 0 /\ Rabs a * x * exp (a * x) = worst_decay s_A x).
Proof.
  intros x0. unfold worst_decay. destruct (Rle_dec x 0) as [le|gt].
  - replace x with 0 by lra. split.
    + intros a _. rewrite Rmult_0_r. lra.
    + exists (Rmin s_A 0). split; [lra|]. rewrite Rmult_0_r. lra.
  - apply Rnot_le_lt in gt. set (s := Rmax 0 (- s_A)).
    assert (s0 : 0 <= s) by apply Rmax_l.
    assert (sm : Rmin s_A 0 = - s).
    { unfold s, Rmin, Rmax. destruct (Rle_dec s_A 0), (Rle_dec 0 (- s_A)); lra. }
    rewrite sm. assert (value : forall a, a <= - s ->
      Rabs a * x * exp (a * x) = (- a * x) * exp (- (- a * x))).
    { intros a la. rewrite Rabs_left1 by lra. f_equal. f_equal. ring. }
    split.
    + intros a la. rewrite value by easy. destruct (Rle_lt_dec (s * x) 1) as [m|m].
      * rewrite (Rmax_left 1) by easy.
        replace (1 * exp (- (1))) with (/ exp 1) by (rewrite exp_Ropp; lra). apply peak.
      * rewrite (Rmax_right 1) by lra. apply past_the_peak. nra.
    + destruct (Rle_lt_dec (s * x) 1) as [m|m].
      * rewrite (Rmax_left 1) by easy. exists (- (1 / x)).
        assert (- (1 / x) <= - s) as la.
        { apply Ropp_le_contravar. apply Rle_div_r; lra. }
        split; [easy|]. rewrite value by easy.
        replace (- - (1 / x) * x) with 1 by (field; lra). easy.
      * rewrite (Rmax_right 1) by lra. exists (- s). split; [lra|].
        rewrite value by lra. now rewrite Ropp_involutive.
Qed.

(** The rising and the falling part of h, and their integral. *)
Definition falling (s x : R) : R := let y := Rmax 1 (s * x) in y * exp (- y).

Definition falling_integral (s x : R) : R :=
  Rmin x (1 / s) / exp 1 + (2 / (exp 1 * s) - (Rmax x (1 / s) + 1 / s) * exp (- s * Rmax x (1 / s))).

Lemma falling_pos s x : 0 < falling s x.
Proof.
  unfold falling. pose proof (Rmax_l 1 (s * x)).
  apply Rmult_lt_0_compat; [lra | apply exp_pos].
Qed.

Lemma falling_le s x : falling s x <= / exp 1.
Proof. apply peak. Qed.

Lemma falling_falls s x y : 0 < s -> x <= y -> falling s y <= falling s x.
Proof.
  intros s0 xy. apply past_the_peak. split; [apply Rmax_l|].
  apply Rle_max_compat_l. nra.
Qed.

Lemma falling_late s x : 0 < s -> 1 / s <= x -> falling s x = s * x * exp (- s * x).
Proof.
  intros s0 late. unfold falling. rewrite Rmax_right.
  - f_equal. f_equal. ring.
  - apply Rle_div_l in late; lra.
Qed.

Lemma falling_early s x : 0 < s -> x <= 1 / s -> falling s x = / exp 1.
Proof.
  intros s0 early. unfold falling. rewrite Rmax_left.
  - rewrite exp_Ropp. lra.
  - apply Rle_div_r in early; lra.
Qed.

Lemma falling_integral_early s x :
  0 < s -> x <= 1 / s -> falling_integral s x = x / exp 1.
Proof.
  intros s0 early. unfold falling_integral. rewrite Rmin_left, Rmax_right by easy.
  replace (- s * (1 / s)) with (- (1)) by (field; lra).
  rewrite exp_Ropp. field; nonzero.
Qed.

Lemma falling_integral_late s x :
  0 < s -> 1 / s <= x ->
  falling_integral s x = 3 / (exp 1 * s) - (x + 1 / s) * exp (- s * x).
Proof.
  intros s0 late. unfold falling_integral. rewrite Rmin_right, Rmax_left by easy.
  field; nonzero.
Qed.

Lemma falling_integral_slope_early s a b :
  0 < s -> a <= b <= 1 / s ->
  falling s b * (b - a) <= falling_integral s b - falling_integral s a.
Proof.
  intros s0 [ab early]. rewrite falling_early, !falling_integral_early by lra.
  right. field; nonzero.
Qed.

Lemma falling_integral_slope_late s a b :
  0 < s -> 1 / s <= a <= b ->
  falling s b * (b - a) <= falling_integral s b - falling_integral s a.
Proof.
  intros s0 [late ab]. rewrite !falling_integral_late by lra.
  set (f := fun x => 3 / (exp 1 * s) - (x + 1 / s) * exp (- s * x)).
  apply (increase_at_least f (fun x => s * x * exp (- s * x))); [easy | |].
  - intros x _. unfold f. auto_derive; [easy|]. field. lra.
  - intros x Hx. rewrite <- falling_late by lra. apply falling_falls; lra.
Qed.

Lemma falling_integral_slope s a b :
  0 < s -> a <= b -> falling s b * (b - a) <= falling_integral s b - falling_integral s a.
Proof.
  intros s0 ab. destruct (Rle_lt_dec b (1 / s)) as [early|late].
  - now apply falling_integral_slope_early.
  - destruct (Rle_lt_dec (1 / s) a) as [la|ea].
    + now apply falling_integral_slope_late.
    + pose proof (falling_integral_slope_early s a (1 / s) s0) as H1.
      pose proof (falling_integral_slope_late s (1 / s) b s0) as H2.
      assert (falling s b <= falling s (1 / s)) by (apply falling_falls; lra).
      specialize (H1 ltac:(lra)). specialize (H2 ltac:(lra)). nra.
Qed.

Lemma falling_integral_le s x : 0 < s -> falling_integral s x <= 3 / (exp 1 * s).
Proof.
  intros s0. pose proof (exp_pos 1) as e0.
  assert (0 < 1 / s) as r0 by (apply Rdiv_lt_0_compat; lra).
  destruct (Rle_lt_dec x (1 / s)) as [early|late].
  - rewrite falling_integral_early by easy.
    apply Rle_trans with (1 / s / exp 1).
    + apply Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat | easy].
    + replace (3 / (exp 1 * s)) with (3 * (1 / s / exp 1)) by (field; lra).
      assert (0 < 1 / s / exp 1) by (apply Rdiv_lt_0_compat; lra). lra.
  - rewrite falling_integral_late by lra. pose proof (exp_pos (- s * x)). nra.
Qed.

Lemma falling_integral_0 s : 0 < s -> falling_integral s 0 = 0.
Proof.
  intros s0. rewrite falling_integral_early; [|easy|].
  - unfold Rdiv. ring.
  - left. apply Rdiv_lt_0_compat; lra.
Qed.

Lemma worst_decay_le s_A x : worst_decay s_A x <= / exp 1.
Proof.
  unfold worst_decay. destruct (Rle_dec x 0); [|apply peak].
  left. apply Rinv_0_lt_compat, exp_pos.
Qed.

Lemma worst_decay_0 s_A : worst_decay s_A 0 = 0.
Proof. unfold worst_decay. destruct (Rle_dec 0 0); lra. Qed.

Lemma worst_decay_nonneg s_A x : 0 <= worst_decay s_A x.
Proof.
  unfold worst_decay. destruct (Rle_dec x 0); [lra|].
  pose proof (Rmax_l 1 (Rmax 0 (- s_A) * x)).
  apply Rmult_le_pos; [lra | left; apply exp_pos].
Qed.

Lemma worst_decay_falling s_A x : s_A < 0 -> worst_decay s_A x <= falling (- s_A) x.
Proof.
  intros s0. unfold worst_decay. destruct (Rle_dec x 0); [left; apply falling_pos|].
  unfold falling. rewrite (Rmax_right 0) by lra. lra.
Qed.

(** The last token contributes nothing, every other at most D / e. *)
Lemma decaying_steps_short s_A D T e :
  steps_within D T e ->
  \sum_(k < T) (e k * worst_decay s_A (sum k e)) <= INR (T - 1) * D / exp 1.
Proof.
  intros H. destruct T as [|n]; [simpl; lra|].
  rewrite sum_first. simpl (sum 0 e). rewrite worst_decay_0, Rmult_0_r, Rplus_0_l.
  replace (S n - 1)%nat with n by lia. unfold Rdiv. rewrite Rmult_assoc.
  apply sum_le_const. intros k kn. destruct (H (S k)) as [e0 eD]; [lia|].
  apply Rmult_le_compat; [lra | apply worst_decay_nonneg | easy | apply worst_decay_le].
Qed.

(** A left Riemann sum of a function that never increases exceeds the integral by at most
    mesh times maximum. *)
Lemma decaying_steps_long s_A D T e :
  s_A < 0 -> (0 < T)%nat -> steps_within D T e ->
  \sum_(k < T) (e k * worst_decay s_A (sum k e)) <= (3 / - s_A + D) / exp 1.
Proof.
  intros s0 T0 H. set (s := - s_A). assert (s0' : 0 < s) by (unfold s; lra).
  set (potential := fun k => falling_integral s (sum k e) - D * falling s (sum k e)).
  assert (step : forall k, (k < T)%nat ->
    e k * worst_decay s_A (sum k e) <= potential (S k) - potential k).
  { intros k kT. destruct (H k kT) as [e0 eD]. unfold potential.
    pose proof (falling_integral_slope s (sum k e) (sum (S k) e) s0') as I.
    simpl (sum (S k) e) in *. specialize (I ltac:(lra)).
    replace (sum k e + e k - sum k e) with (e k) in I by lra.
    pose proof (worst_decay_falling s_A (sum k e) s0).
    assert (falling s (sum k e + e k) <= falling s (sum k e)) by (apply falling_falls; lra).
    unfold s in *. nra. }
  apply Rle_trans with (potential T - potential O).
  - rewrite <- sum_telescope. now apply sum_le.
  - unfold potential. simpl (sum 0 e). rewrite falling_integral_0 by easy.
    pose proof (falling_integral_le s (sum T e) s0').
    assert (0 < D) by (eapply largest_step_pos; eauto).
    pose proof (falling_pos s (sum T e)). pose proof (falling_le s 0).
    pose proof (exp_pos 1).
    replace ((3 / s + D) / exp 1) with (3 / (exp 1 * s) + D * / exp 1) by (field; lra).
    nra.
Qed.

(** Lemma 2. The sum over t of delta_t max |a| tau_t e^{a tau_t}, the maximum over
    a <= min(s_A, 0) inside the sum, is at most S2: min{(T - 1) D, 3/s + D} / e for s_A < 0 and
    (T - 1) D / e for s_A >= 0. *)
Theorem lemma_2 s_A D T delta :
  (0 < T)%nat -> steps_within D T delta ->
  \sum_(t < T) (delta t * worst_decay s_A (tau T delta t)) <= decaying_sum s_A D T.
Proof.
  intros T0 H. rewrite (sum_from_the_end T delta (fun d x => d * worst_decay s_A x)).
  apply steps_from_the_end in H. unfold decaying_sum.
  destruct (Rlt_dec s_A 0) as [neg|pos].
  - apply Rmin_case.
    + now apply (decaying_steps_short s_A D T (fun k => delta (T - 1 - k)%nat)).
    + now apply (decaying_steps_long s_A D T (fun k => delta (T - 1 - k)%nat)).
  - now apply (decaying_steps_short s_A D T (fun k => delta (T - 1 - k)%nat)).
Qed.

(** The integral of h: its antiderivative, 0 at 0, rises to 3 / (e s). *)
Lemma lim_opp_scal s : 0 < s -> is_lim (fun x => - s * x) p_infty m_infty.
Proof.
  intros s0. replace m_infty with (Rbar_mult (- s) p_infty).
  - apply is_lim_scal_l, is_lim_id.
  - simpl. destruct (Rle_dec 0 (- s)) as [le|]; [exfalso; lra | easy].
Qed.

Theorem worst_decay_integral s :
  0 < s ->
  falling_integral s 0 = 0 /\ is_lim (falling_integral s) p_infty (3 / (exp 1 * s)).
Proof.
  intros s0. split; [now apply falling_integral_0|]. apply is_lim_ext_loc
    with (fun x => 3 / (exp 1 * s) - / s * (exp (- s * x) - - s * x * exp (- s * x))).
  { exists (1 / s). intros x Hx. rewrite falling_integral_late by lra. field; nonzero. }
  replace (Finite (3 / (exp 1 * s))) with (Rbar_minus (3 / (exp 1 * s)) (Rbar_mult (/ s) (0 - 0)))
    by (simpl; f_equal; field; nonzero).
  pose proof (lim_opp_scal s s0) as down.
  assert (far : Rbar_locally' p_infty (fun y => Finite (- s * y) <> m_infty)) by now exists 0.
  apply is_lim_minus'; [apply is_lim_const|].
  apply (is_lim_scal_l _ (/ s) p_infty (0 - 0)), is_lim_minus'.
  - now apply (is_lim_comp exp (fun x => - s * x) p_infty 0 m_infty); [apply is_lim_exp_m| |].
  - now apply (is_lim_comp (fun y => y * exp y) (fun x => - s * x) p_infty 0 m_infty);
      [apply is_lim_mul_exp_m| |].
Qed.

(** ** Lemma 3 *)

Definition rising_falling_integral (s x : R) : R :=
  1 / s ^ 2 - (x / s + 1 / s ^ 2) * exp (- s * x).

Lemma rising_falling_slope s a b :
  0 < s -> 0 <= a <= b ->
  Rmin (a * exp (- s * a)) (b * exp (- s * b)) * (b - a)
  <= rising_falling_integral s b - rising_falling_integral s a.
Proof.
  intros s0 [a0 ab].
  apply (increase_at_least (rising_falling_integral s) (fun x => x * exp (- s * x))); [easy | |].
  - intros x _. unfold rising_falling_integral. auto_derive; [easy|]. field. lra.
  - intros x Hx.
    assert (scaled : forall u, u * exp (- s * u) = s * u * exp (- (s * u)) / s).
    { intros u. replace (- (s * u)) with (- s * u) by ring. field. lra. }
    rewrite !scaled. assert (0 < / s) by now apply Rinv_0_lt_compat.
    destruct (Rle_lt_dec (s * x) 1).
    + eapply Rle_trans; [apply Rmin_l|]. apply Rmult_le_compat_r; [lra|].
      apply before_the_peak; nra.
    + eapply Rle_trans; [apply Rmin_r|]. apply Rmult_le_compat_r; [lra|].
      apply past_the_peak; nra.
Qed.

Lemma below_falling s x : 0 < s -> x * exp (- s * x) <= falling s x / s.
Proof.
  intros s0. apply (Rle_div_r (x * exp (- s * x))); [lra|].
  replace (x * exp (- s * x) * s) with (s * x * exp (- (s * x)))
    by (replace (- s * x) with (- (s * x)) by ring; ring).
  destruct (Rle_lt_dec x (1 / s)) as [early|late].
  - rewrite falling_early by easy. apply peak.
  - rewrite falling_late by lra. right. f_equal. f_equal. ring.
Qed.

Lemma excess_of_a_step s a b :
  0 < s -> 0 <= a <= b ->
  a * exp (- s * a) - b * exp (- s * b) <= (falling s a - falling s b) / s.
Proof.
  intros s0 [a0 ab]. destruct (Rle_lt_dec (1 / s) b) as [late|early].
  - pose proof (below_falling s a s0).
    assert (b * exp (- s * b) = falling s b / s)
      by (rewrite falling_late by easy; field; lra).
    lra.
  - rewrite !falling_early by lra. unfold Rminus at 2. rewrite Rplus_opp_r.
    assert (b * s <= 1) by (apply Rle_div_r; lra).
    assert (s * a * exp (- (s * a)) <= s * b * exp (- (s * b)))
      by (apply before_the_peak; nra).
    replace (- (s * a)) with (- s * a) in * by ring.
    replace (- (s * b)) with (- s * b) in * by ring.
    unfold Rdiv. rewrite Rmult_0_l. nra.
Qed.

Lemma absolute_steps_long s_A D T e :
  s_A < 0 -> (0 < T)%nat -> steps_within D T e ->
  \sum_(k < T) (e k * (sum k e * exp (s_A * sum k e))) <= 1 / s_A ^ 2 + D / (exp 1 * - s_A).
Proof.
  intros s0 T0 H. set (s := - s_A). assert (s0' : 0 < s) by (unfold s; lra).
  replace s_A with (- s) by (unfold s; lra).
  set (potential := fun k => rising_falling_integral s (sum k e) - D * (falling s (sum k e) / s)).
  assert (step : forall k, (k < T)%nat ->
    e k * (sum k e * exp (- s * sum k e)) <= potential (S k) - potential k).
  { intros k kT. destruct (H k kT) as [e0 eD]. unfold potential. simpl (sum (S k) e).
    destruct (elapsed_bounds D T e k H) as [t0 _]; [lia|].
    set (a := sum k e) in *. set (b := a + e k).
    pose proof (rising_falling_slope s a b s0') as I. specialize (I ltac:(unfold b; lra)).
    pose proof (excess_of_a_step s a b s0') as X. specialize (X ltac:(unfold b; lra)).
    assert (F : falling s b <= falling s a) by (apply falling_falls; unfold b; lra).
    assert (0 < / s) by now apply Rinv_0_lt_compat.
    replace (b - a) with (e k) in I by (unfold b; lra).
    assert (0 <= (falling s a - falling s b) / s) by (apply Rmult_le_pos; lra).
    unfold Rdiv in *. revert I. unfold Rmin. destruct Rle_dec; intros I; nra. }
  apply Rle_trans with (potential T - potential O).
  - rewrite <- sum_telescope. now apply sum_le.
  - unfold potential. simpl (sum 0 e).
    assert (0 < D) as D0 by (eapply largest_step_pos; eauto).
    destruct (elapsed_bounds D T e T H) as [t0 _]; [lia|].
    assert (Z : rising_falling_integral s 0 = 0).
    { unfold rising_falling_integral. rewrite Rmult_0_r, exp_0. field. lra. }
    rewrite Z, (falling_early s 0); [|easy|left; apply Rdiv_lt_0_compat; lra].
    assert (0 <= (sum T e / s + 1 / s ^ 2) * exp (- s * sum T e)).
    { apply Rmult_le_pos; [|left; apply exp_pos]. apply Rplus_le_le_0_compat.
      - apply Rdiv_le_0_compat; lra.
      - apply Rdiv_le_0_compat; [lra|]. apply pow_lt. lra. }
    assert (0 < falling s (sum T e) / s) by (apply Rdiv_lt_0_compat; [apply falling_pos | lra]).
    pose proof (exp_pos 1).
    replace (D / (exp 1 * s)) with (D * (/ exp 1 / s)) by (field; lra).
    replace ((- s) ^ 2) with (s ^ 2) by ring.
    unfold rising_falling_integral in *. nra.
Qed.

Lemma absolute_steps_growing s_A D T e k :
  0 <= s_A -> (k < T)%nat -> steps_within D T e ->
  e k * (sum k e * exp (s_A * sum k e)) <= D ^ 2 * (INR k * exp (s_A * D * INR k)).
Proof.
  intros s0 kT H. destruct (H k kT) as [e0 eD].
  destruct (elapsed_bounds D T e k H) as [t0 t1]; [lia|].
  replace (D ^ 2 * (INR k * exp (s_A * D * INR k)))
    with (D * ((D * INR k) * exp (s_A * D * INR k))) by ring.
  apply Rmult_le_compat; [lra | | lra |].
  - apply Rmult_le_pos; [easy | left; apply exp_pos].
  - apply Rmult_le_compat; [easy | left; apply exp_pos | easy | apply exp_le; nra].
Qed.

Lemma absolute_steps_short s_A D T e :
  s_A < 0 -> steps_within D T e ->
  \sum_(k < T) (e k * (sum k e * exp (s_A * sum k e))) <= D ^ 2 * (INR T * (INR T - 1) / 2).
Proof.
  intros s0 H. rewrite <- sum_INR, <- sum_scal. apply sum_le. intros k kT.
  destruct (H k kT) as [e0 eD]. destruct (elapsed_bounds D T e k H) as [t0 t1]; [lia|].
  replace (D ^ 2 * INR k) with (D * ((D * INR k) * 1)) by ring.
  apply Rmult_le_compat; [lra | | lra |].
  - apply Rmult_le_pos; [easy | left; apply exp_pos].
  - apply Rmult_le_compat; [easy | left; apply exp_pos | easy | apply exp_le_1; nra].
Qed.

(** Lemma 3. The sum over t of delta_t tau_t e^{s_A tau_t} is at most S3:
    D^2 (sum over k < T of k e^{s_A D k}) for s_A >= 0, and
    min{D^2 T (T - 1) / 2, 1 / s^2 + D / (e s)} for s_A = -s < 0. *)
Theorem lemma_3 s_A D T delta :
  (0 < T)%nat -> steps_within D T delta ->
  \sum_(t < T) (delta t * (tau T delta t * exp (s_A * tau T delta t))) <= absolute_sum s_A D T.
Proof.
  intros T0 H. rewrite (sum_from_the_end T delta (fun d x => d * (x * exp (s_A * x)))).
  apply steps_from_the_end in H. unfold absolute_sum.
  destruct (Rlt_dec s_A 0) as [neg|pos].
  - apply Rmin_case.
    + now apply (absolute_steps_short s_A D T (fun k => delta (T - 1 - k)%nat)).
    + now apply (absolute_steps_long s_A D T (fun k => delta (T - 1 - k)%nat)).
  - rewrite <- sum_scal. apply sum_le. intros k kT.
    apply (absolute_steps_growing s_A D T (fun k => delta (T - 1 - k)%nat)); [lra | easy | easy].
Qed.
