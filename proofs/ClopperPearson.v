(** The exact binomial bound as a monotone inversion (docs/bounds.md, "Held out"). *)

From Coq Require Import Reals Lra Lia List Ranalysis5.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Binomials StepSums.
Import ListNotations.
Open Scope R_scope.

(** P(Bin(n, p) = k) and P(Bin(n, p) <= k). *)
Definition binomial_mass (n : nat) (p : R) (k : nat) : R :=
  choose n k * (p ^ k * (1 - p) ^ (n - k)).

Definition binomial_tail (n k : nat) (p : R) : R := \sum_(i < S k) binomial_mass n p i.

(** ** The number of errors among n independent examples *)

(** The expectation of f over n independent examples, each an error with probability p. *)
Fixpoint independent_errors (n : nat) (p : R) (f : nat -> R) : R :=
  match n with
  | O => f O
  | S m => p * independent_errors m p (fun k => f (S k)) + (1 - p) * independent_errors m p f
  end.

(** The number of errors is binomial. *)
Theorem errors_are_binomial n p f :
  independent_errors n p f = \sum_(k < S n) (binomial_mass n p k * f k).
Proof.
  revert f. induction n as [|n IH]; intros f.
  - unfold binomial_mass. simpl. rewrite C_0. ring.
  - cbn [independent_errors]. rewrite !IH. unfold binomial_mass.
    rewrite (sum_ext (S (S n)) _ (fun k =>
      choose (S n) k * (p ^ k * (1 - p) ^ (S n - k) * f k))) by (intros; ring).
    rewrite (pascal_sum n (fun k => p ^ k * (1 - p) ^ (S n - k) * f k)).
    rewrite <- !sum_scal, <- sum_plus. apply sum_ext. intros k kn.
    replace (S n - S k)%nat with (n - k)%nat by lia.
    replace (S n - k)%nat with (S (n - k)) by lia. simpl. ring.
Qed.

Lemma mass_nonneg n p k : 0 <= p <= 1 -> 0 <= binomial_mass n p k.
Proof.
  intros Hp. unfold binomial_mass. apply Rmult_le_pos; [left; apply C_pos|].
  apply Rmult_le_pos; apply pow_le; lra.
Qed.

Lemma total_mass n p : \sum_(k < S n) binomial_mass n p k = 1.
Proof.
  transitivity (independent_errors n p (fun _ => 1)).
  - rewrite errors_are_binomial. apply sum_ext. intros. ring.
  - clear. induction n as [|n IH]; simpl; [easy|]. rewrite IH. ring.
Qed.

(** ** The tail falls strictly with p *)

Lemma tail_zero n k : binomial_tail n k 0 = 1.
Proof.
  unfold binomial_tail. rewrite sum_first, sum_zero.
  - unfold binomial_mass. rewrite C_0, Nat.sub_0_r, Rminus_0_r, pow1. simpl. ring.
  - intros i _. unfold binomial_mass. simpl. ring.
Qed.

Lemma tail_one n k : (k < n)%nat -> binomial_tail n k 1 = 0.
Proof.
  intros kn. unfold binomial_tail. apply sum_zero. intros i ik. unfold binomial_mass.
  rewrite Rminus_eq_0, (pow_i (n - i)) by lia. ring.
Qed.

Lemma tail_full n p : binomial_tail n n p = 1.
Proof. apply total_mass. Qed.

Lemma power_product_derive (k j : nat) (p : R) :
  is_derive (fun p => p ^ S k * (1 - p) ^ S j) p
    (INR (S k) * (p ^ k * (1 - p) ^ S j) - INR (S j) * (p ^ S k * (1 - p) ^ j)).
Proof.
  auto_derive; [easy|].
  change (1 * (INR (S k) * p ^ k) * (1 + - p) ^ S j + p ^ S k * (- (1) * (INR (S j) * (1 + - p) ^ j))
          = INR (S k) * (p ^ k * (1 - p) ^ S j) - INR (S j) * (p ^ S k * (1 - p) ^ j)).
  replace (1 + - p) with (1 - p) by ring. ring.
Qed.

(** d/dp P(Bin(n, p) <= k) = -n C(n-1, k) p^k (1-p)^{n-1-k}. *)
Theorem tail_derivative n k p :
  (k <= n)%nat ->
  is_derive (binomial_tail (S n) k) p
    (- (INR (S n) * choose n k * (p ^ k * (1 - p) ^ (n - k)))).
Proof.
  revert p. induction k as [|k IH]; intros p le.
  - apply is_derive_ext with (fun p => (1 - p) ^ S n).
    { intros y. unfold binomial_tail, binomial_mass. cbn [sum]. rewrite C_0, Nat.sub_0_r.
      simpl. refine (_ : @eq R _ _). ring. }
    eapply is_derive_eq; [apply is_derive_pow; auto_derive; [easy | reflexivity]|].
    rewrite C_0, Nat.sub_0_r. simpl pred. simpl (_ ^ 0). unfold one. simpl. ring.
  - apply is_derive_ext with (fun p => binomial_tail (S n) k p + binomial_mass (S n) p (S k));
      [easy|].
    eapply is_derive_eq.
    + apply (is_derive_plus (binomial_tail (S n) k)); [apply IH; lia|].
      unfold binomial_mass. apply (is_derive_scal (fun p => p ^ S k * (1 - p) ^ (S n - S k))).
      replace (S n - S k)%nat with (S (n - S k)) by lia. apply power_product_derive.
    + unfold plus. cbn -[INR pow]. rewrite Rmult_minus_distr_l.
      replace (n - k)%nat with (S (n - S k)) by lia.
      pose proof (C_absorb n k ltac:(lia)) as A. pose proof (C_absorb_r n k le) as B.
      replace (n - k)%nat with (S (n - S k)) in B by lia.
      set (j := (n - S k)%nat) in *. set (x := p ^ k) in *. set (y := p ^ S k) in *.
      set (u := (1 - p) ^ S j) in *. set (v := (1 - p) ^ j) in *.
      replace (choose (S n) (S k) * (INR (S k) * (x * u)))
        with (INR (S k) * choose (S n) (S k) * (x * u)) by ring.
      replace (choose (S n) (S k) * (INR (S j) * (y * v)))
        with (INR (S j) * choose (S n) (S k) * (y * v)) by ring.
      rewrite A, B. ring.
Qed.

(** p -> P(Bin(n, p) <= k) falls strictly on [0, 1], from 1 to 0, for k < n. *)
Theorem tail_falls n k p p' :
  (k < n)%nat -> 0 <= p < p' -> p' <= 1 -> binomial_tail n k p' < binomial_tail n k p.
Proof.
  intros kn Hp Hp'. destruct n as [|n]; [lia|].
  set (slope := fun p => INR (S n) * choose n k * (p ^ k * (1 - p) ^ (n - k))).
  assert (D : forall y, is_derive (fun p => - binomial_tail (S n) k p) y (slope y)).
  { intros y. eapply is_derive_eq.
    - apply (is_derive_opp (binomial_tail (S n) k)), tail_derivative. lia.
    - unfold slope, opp. simpl opp. apply Ropp_involutive. }
  assert (N0 : 0 < INR (S n)) by (apply lt_0_INR; lia). pose proof (C_pos n k).
  set (a := p + (p' - p) / 3). set (b := p + 2 * (p' - p) / 3).
  assert (order : p < a /\ a < b /\ b < p') by (unfold a, b; lra).
  assert (nonneg : forall y, 0 <= y <= 1 -> 0 <= slope y).
  { intros y Hy. unfold slope. apply Rmult_le_pos; [apply Rmult_le_pos; lra|].
    apply Rmult_le_pos; apply pow_le; lra. }
  set (m := INR (S n) * choose n k * (a ^ k * (1 - b) ^ (n - k))).
  assert (m0 : 0 < m).
  { unfold m. apply Rmult_lt_0_compat; [apply Rmult_lt_0_compat; lra|].
    apply Rmult_lt_0_compat; apply pow_lt; lra. }
  pose proof (increase_at_least _ slope p a 0 ltac:(lra) ltac:(intros; apply D)
    ltac:(intros; apply nonneg; lra)) as I1.
  pose proof (increase_at_least _ slope a b m ltac:(lra) ltac:(intros; apply D)) as I2.
  pose proof (increase_at_least _ slope b p' 0 ltac:(lra) ltac:(intros; apply D)
    ltac:(intros; apply nonneg; lra)) as I3.
  assert (m * (b - a) <= - binomial_tail (S n) k b - - binomial_tail (S n) k a).
  { apply I2. intros y Hy. unfold m, slope. apply Rmult_le_compat_l.
    - apply Rmult_le_pos; lra.
    - apply Rmult_le_compat; try (apply pow_le; lra); apply pow_incr; lra. }
  nra.
Qed.

Lemma tail_le_inversion n k p p' :
  (k < n)%nat -> 0 <= p <= 1 -> 0 <= p' <= 1 ->
  binomial_tail n k p <= binomial_tail n k p' -> p' <= p.
Proof.
  intros kn Hp Hp' le. destruct (Rle_lt_dec p' p) as [|lt]; [easy|].
  pose proof (tail_falls n k p p' kn ltac:(lra) ltac:(lra)). lra.
Qed.

(** For k < n errors and 0 < delta < 1 there is exactly one p with P(Bin(n, p) <= k) = delta,
    and it is the largest p with P(Bin(n, p) <= k) >= delta. *)
Theorem clopper_pearson_exists n k delta :
  (k < n)%nat -> 0 < delta < 1 ->
  exists p, 0 < p < 1 /\ binomial_tail n k p = delta
    /\ forall p', 0 <= p' <= 1 -> (delta <= binomial_tail n k p' <-> p' <= p).
Proof.
  intros kn Hd.
  destruct (IVT_interv (fun p => delta - binomial_tail n k p) 0 1) as [p [Hp E]].
  - intros y _. apply continuity_pt_filterlim.
    apply (ex_derive_continuous (fun p => delta - binomial_tail n k p)).
    destruct n as [|n]; [lia|]. eexists.
    apply (is_derive_minus (fun _ => delta) (binomial_tail (S n) k));
      [apply (is_derive_const delta) | apply tail_derivative; lia].
  - lra.
  - rewrite tail_zero. lra.
  - rewrite tail_one by easy. lra.
  - exists p. assert (E' : binomial_tail n k p = delta) by lra. split; [|split; [easy|]].
    + split; apply Rnot_le_lt; intros le.
      * replace p with 0 in E' by lra. rewrite tail_zero in E'. lra.
      * replace p with 1 in E' by lra. rewrite tail_one in E' by easy. lra.
    + intros p' Hp'. rewrite <- E'. split.
      * intros le. now apply (tail_le_inversion n k).
      * intros [lt|<-]; [|lra]. left. apply tail_falls; [easy | lra | lra].
Qed.

(** What a checker does: if P(Bin(n, p) <= k) <= delta (or k = n and p = 1), then every p' with
    P(Bin(n, p') <= k) > delta is at most p. *)
Definition valid_claim (n k : nat) (p delta : R) : Prop :=
  (k = n /\ p = 1) \/ ((k < n)%nat /\ 0 <= p <= 1 /\ binomial_tail n k p <= delta).

Theorem clopper_pearson_claim_holds n k p delta p' :
  valid_claim n k p delta -> 0 <= p' <= 1 -> delta < binomial_tail n k p' -> p' <= p.
Proof.
  intros [[-> ->]|[kn [Hp le]]] Hp' lt; [lra|].
  apply (tail_le_inversion n k); [easy | easy | easy | lra].
Qed.

(** ** Coverage *)

Lemma largest_error_count n (bad : nat -> bool) :
  (forall k, (k < n)%nat -> bad k = false)
  \/ exists k, (k < n)%nat /\ bad k = true /\ forall i, (k < i < n)%nat -> bad i = false.
Proof.
  induction n as [|n IH]; [left; lia|].
  destruct (bad n) eqn:E.
  - right. exists n. repeat split; [lia | easy | lia].
  - destruct IH as [none|[k [kn [bk last]]]].
    + left. intros k kn. destruct (Nat.eq_dec k n) as [->|]; [easy | apply none; lia].
    + right. exists k. repeat split; [lia | easy|]. intros i Hi.
      destruct (Nat.eq_dec i n) as [->|]; [easy | apply last; lia].
Qed.

(** "Held out". Let the classifier err with probability p on each of n independent examples, and
    let U(k) be a valid claim for each number k of errors. The probability that p > U(errors) is at
    most delta. *)
Theorem clopper_pearson_covers n p delta (U : nat -> R) :
  0 <= p <= 1 -> 0 <= delta -> (forall k, (k <= n)%nat -> valid_claim n k (U k) delta) ->
  independent_errors n p (fun k => if Rlt_dec (U k) p then 1 else 0) <= delta.
Proof.
  intros Hp d0 HU. rewrite errors_are_binomial.
  destruct (largest_error_count (S n) (fun k => if Rlt_dec (U k) p then true else false))
    as [none|[k [kn [bk last]]]].
  - rewrite sum_zero; [easy|]. intros k kn. specialize (none k kn).
    destruct (Rlt_dec (U k) p); [easy | ring].
  - assert (lt : U k < p) by now destruct (Rlt_dec (U k) p).
    apply Rle_trans with (binomial_tail n k p).
    + unfold binomial_tail. replace (S n) with (S k + (n - k))%nat by lia.
      rewrite sum_split, (sum_zero (n - k)), Rplus_0_r.
      * apply sum_le. intros i ik. pose proof (mass_nonneg n p i Hp).
        destruct (Rlt_dec (U i) p); lra.
      * intros i Hi. specialize (last (S k + i)%nat ltac:(lia)).
        destruct (Rlt_dec (U (S k + i)%nat) p); [easy | ring].
    + destruct (HU k ltac:(lia)) as [[-> E]|[kn' [HUk le]]]; [lra|].
      pose proof (tail_falls n k (U k) p kn' ltac:(lra) ltac:(lra)). lra.
Qed.

(** ** The incomplete beta function *)

Definition beta_density (k j : nat) (t : R) : R := t ^ k * (1 - t) ^ j.

(** P(Bin(n, p) <= k) = 1 - I_p(k + 1, n - k): the code inverts the regularised incomplete beta
    function, I_p(a, b) the integral of t^{a-1} (1-t)^{b-1} from 0 to p over that from 0 to 1. *)
Theorem tail_is_incomplete_beta n k p :
  (k < n)%nat ->
  binomial_tail n k p
  = 1 - RInt (beta_density k (n - k - 1)) 0 p / RInt (beta_density k (n - k - 1)) 0 1.
Proof.
  intros kn. destruct n as [|n]; [lia|]. replace (S n - k - 1)%nat with (n - k)%nat by lia.
  set (c := INR (S n) * choose n k).
  assert (c0 : 0 < c).
  { apply Rmult_lt_0_compat; [apply lt_0_INR; lia | apply C_pos]. }
  assert (E : forall x, RInt (beta_density k (n - k)) 0 x = (1 - binomial_tail (S n) k x) / c).
  { intros x. apply is_RInt_unique.
    replace ((1 - binomial_tail (S n) k x) / c)
      with (minus (- (binomial_tail (S n) k x / c)) (- (binomial_tail (S n) k 0 / c))).
    - apply (is_RInt_derive (fun t => - (binomial_tail (S n) k t / c))).
      + intros t _. apply is_derive_ext with (fun t => - / c * binomial_tail (S n) k t).
        { intros y. refine (_ : @eq R _ _). field. lra. }
        eapply is_derive_eq; [apply (is_derive_scal (binomial_tail (S n) k)), tail_derivative; lia|].
        unfold beta_density. fold c. field. lra.
      + intros t _. apply (ex_derive_continuous (beta_density k (n - k))).
        unfold beta_density. auto_derive. easy.
    - rewrite tail_zero. unfold minus, plus, opp. simpl. field. lra. }
  rewrite !E, tail_one by easy. field. lra.
Qed.
