(** The kl inversion as a monotone inversion (docs/bounds.md, "Risk" and "PAC-Bayes"): what a
    checker of certificates relies on. *)

From Coq Require Import Reals Lra Lia Ranalysis5.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums StepSums.
Open Scope R_scope.

(** kl(q || p) of two coins. With 0 log 0 = 0 it is defined for every q in [0, 1] and p in (0, 1). *)
Definition kl (q p : R) : R := q * ln (q / p) + (1 - q) * ln ((1 - q) / (1 - p)).

Definition log_odds (p : R) : R := ln (p / (1 - p)).

(** kl(q || r) <= c in the extended sense: kl(q || 0) and kl(q || 1) are infinite but for
    q = 0 and q = 1. *)
Definition within_budget (q r c : R) : Prop :=
  (r = 0 /\ q = 0) \/ (r = 1 /\ q = 1) \/ (0 < r < 1 /\ kl q r <= c).

(** ** Facts *)

Lemma kl_split q p :
  0 <= q <= 1 -> 0 < p < 1 ->
  kl q p = (q * ln q + (1 - q) * ln (1 - q)) - q * ln p - (1 - q) * ln (1 - p).
Proof.
  intros Hq Hp. unfold kl.
  assert (term : forall x y, 0 <= x -> 0 < y -> x * ln (x / y) = x * ln x - x * ln y).
  { intros x y [x0|<-] y0; [rewrite ln_div by easy; ring | ring]. }
  rewrite !term by lra. ring.
Qed.

Lemma kl_zero_mean p : p < 1 -> kl 0 p = - ln (1 - p).
Proof.
  intros Hp. unfold kl. rewrite Rmult_0_l, Rplus_0_l, Rminus_0_r, Rmult_1_l.
  unfold Rdiv. rewrite Rmult_1_l. apply ln_Rinv. lra.
Qed.

Lemma kl_self q : 0 <= q < 1 -> kl q q = 0.
Proof.
  intros [[q0|<-] q1].
  - unfold kl. replace (q / q) with 1 by (field; lra).
    replace ((1 - q) / (1 - q)) with 1 by (field; lra). rewrite ln_1. ring.
  - rewrite kl_zero_mean by lra. rewrite Rminus_0_r, ln_1. ring.
Qed.

Lemma kl_derive q p :
  0 <= q <= 1 -> 0 < p < 1 -> is_derive (kl q) p ((p - q) / (p * (1 - p))).
Proof.
  intros Hq Hp. set (h := q * ln q + (1 - q) * ln (1 - q)).
  apply is_derive_ext_loc with (fun y => h - q * ln y - (1 - q) * ln (1 - y)).
  - assert (e0 : 0 < Rmin p (1 - p)) by (apply Rmin_pos; lra).
    exists (mkposreal _ e0). intros y B. unfold ball in B. simpl in B.
    unfold AbsRing_ball, abs, minus, plus, opp in B. simpl in B. apply Rabs_def2 in B.
    pose proof (Rmin_l p (1 - p)). pose proof (Rmin_r p (1 - p)).
    symmetry. apply kl_split; lra.
  - auto_derive; [lra|]. field. lra.
Qed.

(** ** Monotone in p *)

(** p -> kl(q || p) increases strictly on [q, 1). *)
Theorem kl_increases q p p' :
  0 <= q <= p -> p < p' < 1 -> kl q p < kl q p'.
Proof.
  intros Hq Hp. destruct (Rle_lt_or_eq_dec 0 q (proj1 Hq)) as [q0|<-].
  - set (middle := (p + p') / 2).
    assert (le : 0 * (middle - p) <= kl q middle - kl q p).
    { apply (increase_at_least (kl q) (fun y => (y - q) / (y * (1 - y)))); [unfold middle; lra | |].
      - intros y Hy. unfold middle in *. apply kl_derive; lra.
      - intros y Hy. unfold middle in *. apply Rdiv_le_0_compat; [lra|].
        apply Rmult_lt_0_compat; lra. }
    assert (lt : (middle - q) * (p' - middle) <= kl q p' - kl q middle).
    { apply (increase_at_least (kl q) (fun y => (y - q) / (y * (1 - y)))); [unfold middle; lra | |].
      - intros y Hy. unfold middle in *. apply kl_derive; lra.
      - intros y Hy. apply (Rle_div_r (middle - q)).
        + unfold middle in *. apply Rmult_lt_0_compat; lra.
        + unfold middle in *. assert (0 < y * (1 - y) <= 1) by nra. nra. }
    assert (0 < (middle - q) * (p' - middle)) by (unfold middle; nra). lra.
  - rewrite !kl_zero_mean by lra. apply Ropp_lt_contravar. apply ln_increasing; lra.
Qed.

Lemma kl_le_inversion q p p' :
  0 <= q <= p -> p < 1 -> q <= p' < 1 -> kl q p' <= kl q p -> p' <= p.
Proof.
  intros Hq Hp Hp' le. destruct (Rle_lt_dec p' p) as [|lt]; [easy|].
  pose proof (kl_increases q p p' Hq ltac:(lra)). lra.
Qed.

Theorem kl_nonnegative q p : 0 <= q <= 1 -> 0 < p < 1 -> 0 <= kl q p.
Proof.
  intros Hq Hp.
  assert (term : forall x y, 0 <= x -> 0 < y -> x - y <= x * ln (x / y)).
  { intros x y [x0|<-] y0; [|lra].
    pose proof (exp_ineq1_le (ln (y / x))) as I.
    rewrite exp_ln in I by (now apply Rdiv_lt_0_compat).
    replace (ln (x / y)) with (- ln (y / x)) by (rewrite !ln_div by easy; ring).
    apply Rmult_le_compat_l with (r := x) in I; [|lra].
    replace (x * (y / x)) with y in I by (field; lra). lra. }
  pose proof (term q p). pose proof (term (1 - q) (1 - p)). unfold kl. lra.
Qed.

(** ** Monotone in q *)

(** The three-point identity. *)
Lemma kl_three_points q q' p :
  0 <= q <= 1 -> 0 < q' < 1 -> 0 < p < 1 ->
  kl q p = kl q' p + kl q q' + (q - q') * (log_odds q' - log_odds p).
Proof.
  intros Hq Hq' Hp. rewrite !kl_split by lra. unfold log_odds. rewrite !ln_div by lra. ring.
Qed.

(** q -> kl(q || p) falls on [0, p]: a claim for an upper bound of the mean is one for the mean. *)
Theorem kl_falls_in_the_mean q q' p :
  0 <= q <= q' -> q' <= p -> 0 < p < 1 -> kl q' p <= kl q p.
Proof.
  intros Hq Hq' Hp. destruct (Rle_lt_or_eq_dec q q' (proj2 Hq)) as [lt|<-]; [|lra].
  rewrite (kl_three_points q q' p) by lra.
  pose proof (kl_nonnegative q q' ltac:(lra) ltac:(lra)).
  assert (log_odds q' <= log_odds p).
  { unfold log_odds. destruct Hq' as [lt'|<-]; [|lra]. left. apply ln_increasing.
    - apply Rdiv_lt_0_compat; lra.
    - apply (Rlt_div_l q'); [lra|].
      replace (p / (1 - p) * (1 - q')) with (p * (1 - q') / (1 - p)) by (field; lra).
      apply (Rlt_div_r q'); [lra|]. nra. }
  nra.
Qed.

(** ** The inversion *)

(** kl(q || p) >= (1 - q) log(p / (1 - p)) - log 2: where a search for the inverse can end. *)
Theorem kl_search_end q p :
  0 <= q <= 1 -> 0 < p < 1 -> (1 - q) * log_odds p - ln 2 <= kl q p.
Proof.
  intros Hq Hp.
  pose proof (kl_nonnegative q (1 / 2) Hq ltac:(lra)) as half.
  rewrite kl_split in half |- * by lra.
  replace (1 - 1 / 2) with (/ 2) in half by field.
  replace (1 / 2) with (/ 2) in half by field. rewrite ln_Rinv in half by lra.
  assert (ln p <= 0) by (rewrite <- ln_1; left; apply ln_increasing; lra).
  unfold log_odds. rewrite ln_div by lra. nra.
Qed.

(** For every mean in [0, 1) and budget c >= 0 there is exactly one p in [q, 1) with
    kl(q || p) = c: the kl inverse. *)
Theorem kl_inverse_exists q c :
  0 <= q < 1 -> 0 <= c -> exists! p, q <= p < 1 /\ kl q p = c.
Proof.
  intros Hq c0.
  assert (unique : forall p p', q <= p < 1 /\ kl q p = c -> q <= p' < 1 /\ kl q p' = c -> p = p').
  { intros p p' [Hp E] [Hp' E'].
    apply Rle_antisym; apply (kl_le_inversion q); lra. }
  enough (exists p, q <= p < 1 /\ kl q p = c) as [p H].
  { exists p. split; [easy|]. intros p' H'. now apply unique. }
  destruct c0 as [c0|<-]; [|exists q; split; [lra | now apply kl_self]].
  destruct (Rle_lt_or_eq_dec 0 q (proj1 Hq)) as [q0|<-].
  - set (top := exp ((c + ln 2 + 1) / (1 - q) + Rabs (log_odds q) + 1)).
    set (P := top / (1 + top)).
    assert (top0 : 0 < top) by apply exp_pos.
    assert (P1 : 0 < P < 1).
    { unfold P. split; [apply Rdiv_lt_0_compat; lra|]. apply (Rlt_div_l top); lra. }
    assert (odds : log_odds P = (c + ln 2 + 1) / (1 - q) + Rabs (log_odds q) + 1).
    { unfold log_odds. replace (P / (1 - P)) with top by (unfold P; field; lra). apply ln_exp. }
    assert (ln20 : 0 < ln 2) by (rewrite <- ln_1; apply ln_increasing; lra).
    assert (first : 0 < (c + ln 2 + 1) / (1 - q)) by (apply Rdiv_lt_0_compat; lra).
    assert (qP : q < P).
    { apply Rnot_le_lt. intros le.
      assert (log_odds P <= log_odds q).
      { unfold log_odds. destruct le as [lt|eq].
        - left. apply ln_increasing; [apply Rdiv_lt_0_compat; lra|].
          apply (Rlt_div_l P); [lra|].
          replace (q / (1 - q) * (1 - P)) with (q * (1 - P) / (1 - q)) by (field; lra).
          apply (Rlt_div_r P); [lra|]. nra.
        - rewrite eq. lra. }
      pose proof (Rle_abs (log_odds q)). lra. }
    assert (enough_ : c < kl q P).
    { pose proof (kl_search_end q P ltac:(lra) P1) as E. rewrite odds in E.
      pose proof (Rabs_pos (log_odds q)).
      assert ((1 - q) * ((c + ln 2 + 1) / (1 - q)) = c + ln 2 + 1) by (field; lra). nra. }
    destruct (IVT_interv (fun y => kl q y - c) q P) as [p [Hp E]].
    + intros y Hy. apply continuity_pt_filterlim.
      apply (ex_derive_continuous (fun y => kl q y - c)).
      eexists. apply (is_derive_minus (kl q) (fun _ => c)); [|apply (is_derive_const c)].
      apply kl_derive; lra.
    + easy.
    + rewrite kl_self by lra. lra.
    + lra.
    + exists p. split; [|lra]. lra.
  - exists (1 - exp (- c)). pose proof (exp_pos (- c)). pose proof (exp_le_1 (- c) ltac:(lra)).
    split; [lra|]. rewrite kl_zero_mean by lra.
    replace (1 - (1 - exp (- c))) with (exp (- c)) by ring. rewrite ln_exp. ring.
Qed.

(** The inverse at mean zero is 1 - e^{-c}. *)
Theorem kl_inverse_zero_mean c :
  0 <= c -> 0 <= 1 - exp (- c) < 1 /\ kl 0 (1 - exp (- c)) = c.
Proof.
  intros c0. pose proof (exp_pos (- c)). pose proof (exp_le_1 (- c) ltac:(lra)).
  split; [lra|]. rewrite kl_zero_mean by lra.
  replace (1 - (1 - exp (- c))) with (exp (- c)) by ring. rewrite ln_exp. ring.
Qed.

(** What a checker does. A claimed bound p >= q is right if p = 1 or kl(q || p) >= c: then every
    r with kl(q || r) <= c is at most p. *)
Theorem kl_claim_holds q r p c :
  0 <= q <= p -> (p = 1 \/ (p < 1 /\ c <= kl q p)) -> 0 <= r <= 1 ->
  within_budget q r c -> r <= p.
Proof.
  intros Hq claim Hr W. destruct claim as [->|[p1 enough_]]; [lra|].
  destruct W as [[-> ->]|[[-> ->]|[Hr' le]]]; [lra | lra |].
  destruct (Rle_lt_dec r q) as [|lt]; [lra|].
  apply (kl_le_inversion q); lra.
Qed.

(** The same where q is only an upper bound of the mean, as after a Monte Carlo estimate, and c an
    upper bound of the budget. *)
Theorem kl_claim_holds_above q q' r p c c' :
  0 <= q <= q' -> q' <= p -> c <= c' -> (p = 1 \/ (p < 1 /\ c' <= kl q' p)) -> 0 <= r <= 1 ->
  within_budget q r c -> r <= p.
Proof.
  intros Hq Hq' cc claim Hr W. apply (kl_claim_holds q r p c); [lra | | easy | easy].
  destruct claim as [->|[p1 enough_]]; [now left | right]. split; [easy|].
  destruct (Rle_lt_or_eq_dec 0 p ltac:(lra)) as [p0|<-].
  - pose proof (kl_falls_in_the_mean q q' p Hq Hq' ltac:(lra)). lra.
  - replace q with q' by lra. lra.
Qed.

(** No smaller claim is right: below the inverse some r keeps the budget. *)
Theorem kl_claim_tight q p c :
  0 <= q < p -> p < 1 -> kl q p < c -> exists r, p < r < 1 /\ within_budget q r c.
Proof.
  intros Hq Hp lt. pose proof (kl_nonnegative q p ltac:(lra) ltac:(lra)).
  destruct (kl_inverse_exists q c ltac:(lra) ltac:(lra)) as [r [[Hr E] _]].
  exists r. assert (p < r).
  { apply Rnot_le_lt. intros le. destruct le as [lt'|eq]; [|subst; lra].
    pose proof (kl_increases q r p ltac:(lra) ltac:(lra)). lra. }
  split; [lra|]. right. right. split; lra.
Qed.

(** ** Bisection *)

(** The interval after n halvings; [enough] says that a point lies at or beyond the inverse. *)
Fixpoint bisect (enough : R -> bool) (n : nat) (low high : R) : R * R :=
  match n with
  | O => (low, high)
  | S n' =>
      let middle := (low + high) / 2 in
      if enough middle then bisect enough n' low middle else bisect enough n' middle high
  end.

(** The upper end stays at or beyond the inverse, the lower end before it, and the interval
    shrinks by half each time. *)
Theorem bisection_keeps_the_upper_end enough n low high :
  enough high = true ->
  enough (snd (bisect enough n low high)) = true
  /\ (enough low = false -> enough (fst (bisect enough n low high)) = false)
  /\ snd (bisect enough n low high) - fst (bisect enough n low high) = (high - low) / 2 ^ n.
Proof.
  revert low high. induction n as [|n IH]; intros low high H; cbn [bisect].
  - cbn [fst snd pow]. split; [easy|]. split; [easy | field].
  - destruct (enough ((low + high) / 2)) eqn:E.
    + destruct (IH low ((low + high) / 2) E) as [A [B L]]. split; [easy|]. split; [easy|].
      rewrite L. simpl. field. apply pow_nonzero. lra.
    + destruct (IH ((low + high) / 2) high H) as [A [B L]]. split; [easy|].
      split; [intros _; now apply B|]. rewrite L. simpl. field. apply pow_nonzero. lra.
Qed.
