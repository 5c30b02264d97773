(** One population gradient step of the gate (docs/dynamics.md).

    Feature 0 is o_+, feature 1 is o_-, all others are irrelevant. A population is a finite list of
    noiseless sequences of class z = +1, each equally likely; the class z = -1 is the same list with
    o_+ and o_- exchanged. Training starts at w = 0, where every gate is one half. *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel.
Import ListNotations.
Open Scope R_scope.

Definition sequence := nat -> nat.

Definition exchange (feature : nat) : nat :=
  match feature with
  | 0%nat => 1%nat
  | 1%nat => 0%nat
  | other => other
  end.

Definition exchanged (X : sequence) : sequence := fun s => exchange (X s).

Definition hinge (margin : R) : R := Rmax 0 (1 - margin).

(** The expected hinge loss over both classes. *)
Definition population_loss (L : nat) (a w : nat -> R) (population : list sequence) : R :=
  mean population (fun X =>
    (hinge (score L a w X) + hinge (- score L a w (exchanged X))) / 2).

(** Where a gradient step moves w_k, per unit of step size: minus the gradient of the loss. *)
Definition gate_step (L : nat) (a : nat -> R) (population : list sequence) (k : nat) : R :=
  mean population (fun X => (gate_slope L a X k - gate_slope L a (exchanged X) k) / 2).

Lemma hinge_derive (f : R -> R) (l : R) :
  f 0 < 1 -> is_derive f 0 l -> is_derive (fun t => hinge (f t)) 0 (- l).
Proof.
  intros lt D. apply is_derive_ext_loc with (fun t => 1 - f t).
  - assert (cont : continuous f 0) by (apply (ex_derive_continuous f); now exists l).
    assert (near : locally (f 0) (fun y => y < 1)) by now apply open_lt.
    generalize (cont (fun y => y < 1) near). unfold filtermap. apply filter_imp. intros t Ht.
    unfold hinge. now rewrite Rmax_right by lra.
  - eapply is_derive_eq;
      [apply (is_derive_minus (fun _ => 1) f); [apply (is_derive_const 1) | exact D]|].
    unfold minus, plus, opp, zero. simpl. ring.
Qed.

(** While every margin is below 1, as after a small initialisation, the population loss has the
    gradient - gate_step in w at w = 0: one step of gradient descent adds eta [gate_step] to w. *)
Theorem population_gradient L a population k :
  (0 < L)%nat ->
  (forall X, In X population ->
     score L a (fun _ => 0) X < 1 /\ - score L a (fun _ => 0) (exchanged X) < 1) ->
  is_derive (fun t => population_loss L a (along k t) population) 0
    (- gate_step L a population k).
Proof.
  intros L0 active. unfold population_loss, gate_step.
  eapply is_derive_eq.
  - apply (mean_derive population
      (fun X t => (hinge (score L a (along k t) X)
                   + hinge (- score L a (along k t) (exchanged X))) / 2)
      (fun X _ => / 2 * (- gate_slope L a X k + - - gate_slope L a (exchanged X) k))).
    intros X I. destruct (active X I) as [plus minus].
    assert (at_zero : forall Y, score L a (along k 0) Y = score L a (fun _ => 0) Y).
    { intros Y. unfold score, along. f_equal. apply sum_ext. intros l _. f_equal. apply sum_ext.
      intros s sl. f_equal. apply remains_ext; [|lia]. intros j _.
      now destruct (Y j =? k)%nat. }
    apply is_derive_ext with (fun t => / 2 * (hinge (score L a (along k t) X)
      + hinge (- score L a (along k t) (exchanged X)))).
    { intros t. refine (_ : @eq R _ _). field. }
    apply (is_derive_scal (fun t => hinge (score L a (along k t) X)
      + hinge (- score L a (along k t) (exchanged X)))).
    apply (is_derive_plus (fun t => hinge (score L a (along k t) X))).
    + apply (hinge_derive (fun t => score L a (along k t) X)); [now rewrite at_zero|].
      now apply gate_gradient_at_zero.
    + apply (hinge_derive (fun t => - score L a (along k t) (exchanged X)));
        [now rewrite at_zero|].
      apply (is_derive_opp (fun t => score L a (along k t) (exchanged X))).
      now apply gate_gradient_at_zero.
  - set (step := fun X : sequence => (gate_slope L a X k - gate_slope L a (exchanged X) k) / 2).
    transitivity (- @mean sequence population step); [|easy].
    transitivity (-1 * @mean sequence population step); [|ring]. rewrite <- mean_scal.
    apply mean_ext. intros X _. unfold step. field.
Qed.

(** ** The step in terms of pairs of equal tokens *)

(** For the pairs s < l of tokens of class feature c: the weight 2^{-(l - s + 1)} times the number
    of tokens strictly between them that are marked. *)
Definition between (c : nat) (mark : nat -> R) (X : sequence) (L : nat) : R :=
  \sum_(l < L) \sum_(s < l) (same (X s) c * same (X l) c
    * ((1 / 2) ^ S (l - s) * \sum_(i < l - S s) mark (X (S s + i)%nat))).

Definition of_feature (k x : nat) : R := same x k.
Definition of_a_class (x : nat) : R := same x 0 + same x 1.

(** How many of the L tokens carry feature c. *)
Definition number (c : nat) (X : sequence) (L : nat) : R := \sum_(s < L) same (X s) c.

(** What the pairs that end in token l contribute to dF/dw_k. *)
Definition ending_in (X : sequence) (l k : nat) : R :=
  \sum_(s < S l) (same (X s) (X l)
    * ((1 / 2) ^ S (l - s) * ((same (X s) k - count_after k X s l) / 2))).

Lemma same_self a : same a a = 1.
Proof. unfold same. now rewrite Nat.eqb_refl. Qed.

Lemma same_diff a b : a <> b -> same a b = 0.
Proof. intros ne. unfold same. apply Nat.eqb_neq in ne. now rewrite ne. Qed.

Lemma same_cases a b : same a b = 0 \/ a = b /\ same a b = 1.
Proof.
  destruct (Nat.eq_dec a b) as [->|ne]; [right; split; [easy | apply same_self]|].
  left. now apply same_diff.
Qed.

Lemma exchange_involutive x : exchange (exchange x) = x.
Proof. now destruct x as [|[|x]]. Qed.

Lemma same_exchange a b : same (exchange a) b = same a (exchange b).
Proof. destruct a as [|[|a]], b as [|[|b]]; easy. Qed.

Lemma exchange_irrelevant k : (2 <= k)%nat -> exchange k = k.
Proof. intros le. destruct k as [|[|k]]; [lia | lia | easy]. Qed.

Lemma exchanged_ending_in X l k : ending_in (exchanged X) l k = ending_in X l (exchange k).
Proof.
  unfold ending_in, exchanged, count_after. apply sum_ext. intros s _.
  rewrite !same_exchange, exchange_involutive. do 4 f_equal.
  apply sum_ext. intros i _. apply same_exchange.
Qed.

Lemma slope_by_ends L a X k :
  gate_slope L a X k = \sum_(l < L) (a (X l) * ending_in X l k) / INR L.
Proof. easy. Qed.

Lemma exchanged_slope L a X k :
  gate_slope L a (exchanged X) k
  = \sum_(l < L) (a (exchange (X l)) * ending_in X l (exchange k)) / INR L.
Proof.
  rewrite slope_by_ends. f_equal. apply sum_ext. intros l _. now rewrite exchanged_ending_in.
Qed.

Lemma count_after_split k X s l :
  (s < l)%nat ->
  count_after k X s l = \sum_(i < l - S s) same (X (S s + i)%nat) k + same (X l) k.
Proof.
  intros sl. unfold count_after. replace (l - s)%nat with (S (l - S s)) by lia. cbn [sum].
  replace (s + S (l - S s))%nat with l by lia. f_equal.
  apply sum_ext. intros i _. now replace (s + S i)%nat with (S s + i)%nat by lia.
Qed.

(** Ends in class feature c, for another feature k. *)
Lemma ending_in_irrelevant X l k c :
  c <> k ->
  same (X l) c * ending_in X l k
  = - / 2 * \sum_(s < l) (same (X s) c * same (X l) c
      * ((1 / 2) ^ S (l - s) * \sum_(i < l - S s) of_feature k (X (S s + i)%nat))).
Proof.
  intros ne. destruct (same_cases (X l) c) as [->|[E ->]].
  - rewrite sum_zero; [ring|]. intros s _. ring.
  - unfold ending_in. cbn [sum]. rewrite E, (same_diff c k ne).
    unfold count_after at 2. rewrite Nat.sub_diag. cbn [sum].
    rewrite Rmult_1_l. replace ((0 - 0) / 2) with 0 by field. rewrite !Rmult_0_r, Rplus_0_r.
    rewrite <- sum_scal. apply sum_ext. intros s sl.
    rewrite count_after_split, E, (same_diff c k ne) by easy.
    unfold of_feature. destruct (same_cases (X s) c) as [->|[-> ->]]; [ring|].
    rewrite (same_diff c k ne). field.
Qed.

(** Ends in class feature c, for both class features together. *)
Lemma ending_in_class X l c :
  (c <= 1)%nat ->
  same (X l) c * (ending_in X l 0 + ending_in X l 1)
  = / 4 * same (X l) c - / 2 * \sum_(s < l) (same (X s) c * same (X l) c
      * ((1 / 2) ^ S (l - s) * \sum_(i < l - S s) of_a_class (X (S s + i)%nat))).
Proof.
  intros c1. destruct (same_cases (X l) c) as [->|[E ->]].
  - rewrite sum_zero; [ring|]. intros s _. ring.
  - assert (one : same c 0 + same c 1 = 1).
    { destruct c as [|[|c]]; [| |lia]; unfold same; simpl; ring. }
    unfold ending_in. rewrite <- sum_plus. cbn [sum]. rewrite E, !same_self.
    unfold count_after at 3 4. rewrite Nat.sub_diag, !pow_1. cbn [sum].
    rewrite (sum_ext l _ (fun s => - / 2 * (same (X s) c * 1 * ((1 / 2) ^ S (l - s)
      * \sum_(i < l - S s) of_a_class (X (S s + i)%nat))))).
    + rewrite sum_scal. lra.
    + intros s sl. rewrite !count_after_split, E by easy. unfold of_a_class. rewrite sum_plus.
      destruct (same_cases (X s) c) as [->|[-> ->]]; [ring|].
      set (p := (1 / 2) ^ S (l - s)). set (u := \sum_(i < _) same _ 0).
      set (v := \sum_(i < _) same _ 1).
      transitivity (p * ((same c 0 + same c 1 - u - v - (same c 0 + same c 1)) / 2)); [field|].
      rewrite one. field.
Qed.

(** Irrelevant features: only what lies between pairs of class tokens counts,
    and o_+ pulls against o_-. *)
Theorem irrelevant_step L a population k :
  (0 < L)%nat -> (2 <= k)%nat ->
  gate_step L a population k
  = - ((a 0%nat - a 1%nat) / (4 * INR L))
    * mean population (fun X => between 0 (of_feature k) X L - between 1 (of_feature k) X L).
Proof.
  intros L0 k2. assert (0 < INR L) by now apply lt_0_INR.
  unfold gate_step. rewrite <- mean_scal. apply mean_ext. intros X _.
  rewrite exchanged_slope, slope_by_ends, (exchange_irrelevant k k2).
  transitivity ((a 0%nat - a 1%nat) / (2 * INR L) * \sum_(l < L)
    (same (X l) 0 * ending_in X l k - same (X l) 1 * ending_in X l k)).
  - transitivity (/ (2 * INR L) *
      (\sum_(l < L) (a (X l) * ending_in X l k)
       - \sum_(l < L) (a (exchange (X l)) * ending_in X l k))); [field; lra|].
    rewrite <- sum_minus. unfold Rdiv. rewrite (Rmult_comm (a 0%nat - a 1%nat)), Rmult_assoc.
    f_equal. rewrite <- sum_scal. apply sum_ext. intros l _.
    destruct (X l) as [|[|x]]; unfold same; simpl; ring.
  - rewrite (sum_ext L _ (fun l => _ - _)) by
      (intros l _; rewrite !ending_in_irrelevant by lia; reflexivity).
    rewrite sum_minus, !sum_scal. unfold between. field. lra.
Qed.

(** Class features, for a readout that is A on o_+, -A on o_- and 0 on the irrelevant features: w
    moves by the same amount on o_+ and o_-. *)
Theorem class_step L A a population k :
  (0 < L)%nat -> (k <= 1)%nat ->
  (forall x, a x = A * (same x 0 - same x 1)) ->
  gate_step L a population k
  = A / (2 * INR L) * mean population (fun X =>
      (number 0 X L - number 1 X L) / 4
      - (between 0 of_a_class X L - between 1 of_a_class X L) / 2).
Proof.
  intros L0 k1 Ha. assert (0 < INR L) by now apply lt_0_INR.
  unfold gate_step. rewrite <- mean_scal. apply mean_ext. intros X _.
  rewrite exchanged_slope, slope_by_ends.
  transitivity (A / (2 * INR L) * \sum_(l < L)
    (same (X l) 0 * (ending_in X l 0 + ending_in X l 1)
     - same (X l) 1 * (ending_in X l 0 + ending_in X l 1))).
  - transitivity (/ (2 * INR L) *
      (\sum_(l < L) (a (X l) * ending_in X l k)
       - \sum_(l < L) (a (exchange (X l)) * ending_in X l (exchange k)))); [field; lra|].
    rewrite <- sum_minus. unfold Rdiv. rewrite (Rmult_comm A), Rmult_assoc. f_equal.
    rewrite <- sum_scal. apply sum_ext. intros l _. rewrite !Ha.
    destruct k as [|[|k]]; [| |lia]; destruct (X l) as [|[|x]]; unfold same; simpl; ring.
  - rewrite (sum_ext L _ (fun l => _ - _)) by
      (intros l _; rewrite !ending_in_class by lia; reflexivity).
    rewrite !sum_minus, !sum_scal. unfold between, number. field. lra.
Qed.

(** ** The first step of the readout *)

(** (1/L) the sum over pairs s <= l of feature k of 2^{-(l - s + 1)}: dF/da_k at w = 0. *)
Definition readout_slope (L : nat) (X : sequence) (k : nat) : R :=
  \sum_(l < L) (same (X l) k * \sum_(s < S l) (same (X s) (X l) * (1 / 2) ^ S (l - s))) / INR L.

(** At w = 0, F is linear in the readouts a_k; its coefficients are [readout_slope]. *)
Theorem score_at_zero d L a X :
  (forall s, (s < L)%nat -> (X s < d)%nat) ->
  score L a (fun _ => 0) X = \sum_(k < d) (a k * readout_slope L X k).
Proof.
  intros Hd. unfold score, readout_slope.
  rewrite (sum_ext d _ (fun k => \sum_(l < L)
    (a k * (same (X l) k * \sum_(s < S l) (same (X s) (X l) * (1 / 2) ^ S (l - s)))) / INR L))
    by (intros; rewrite sum_scal; unfold Rdiv; ring).
  unfold Rdiv at 1. rewrite <- (sum_ext d (fun k => _ * / INR L)) by (intros; reflexivity).
  rewrite sum_scal_r. f_equal. rewrite sum_swap. apply sum_ext. intros l lL.
  rewrite (sum_single d _ (X l)) by
    (try (now apply Hd); intros k _ ne; rewrite (same_diff (X l) k) by congruence; ring).
  rewrite same_self, Rmult_1_l. f_equal. apply sum_ext. intros s sl. f_equal.
  unfold remains. rewrite prod_halves by (intros; rewrite sigmoid_0; field).
  now rewrite sigmoid_0.
Qed.

(** Where a gradient step moves the readout of feature k, per unit of step size and of hidden units
    that are active on it. *)
Definition readout_step (L : nat) (population : list sequence) (k : nat) : R :=
  mean population (fun X => (readout_slope L X k - readout_slope L (exchanged X) k) / 2).

Lemma exchanged_readout_slope L X k :
  readout_slope L (exchanged X) k = readout_slope L X (exchange k).
Proof.
  unfold readout_slope, exchanged. f_equal. apply sum_ext. intros l _.
  rewrite same_exchange. f_equal. apply sum_ext. intros s _.
  now rewrite same_exchange, exchange_involutive.
Qed.

(** It leaves irrelevant features alone and moves o_- against o_+. *)
Theorem readout_step_symmetric L population :
  (forall k, (2 <= k)%nat -> readout_step L population k = 0)
  /\ readout_step L population 1 = - readout_step L population 0.
Proof.
  unfold readout_step. split.
  - intros k k2. rewrite (mean_ext population _ (fun _ => 0 * 0)).
    + rewrite mean_scal. ring.
    + intros X _. rewrite exchanged_readout_slope, exchange_irrelevant by easy. field.
  - rewrite (mean_ext population _ (fun X =>
      -1 * ((readout_slope L X 0 - readout_slope L (exchanged X) 0) / 2))).
    + rewrite mean_scal. ring.
    + intros X _. rewrite !exchanged_readout_slope. simpl. field.
Qed.

(** W_O with entry (i, k) replaced by t. *)
Definition with_entry (W_O : nat -> nat -> R) (i k : nat) (t : R) (r j : nat) : R :=
  if ((r =? i) && (j =? k))%bool then t else W_O r j.

(** The gradient in one weight of the readout: a unit that is active on feature k (W_O[i, k] > 0)
    moves a_k by v_i per unit of the weight, any other not at all. *)
Theorem readout_gradient m v W_O i k t :
  (i < m)%nat -> t <> 0 ->
  is_derive (fun t => readout m v (with_entry W_O i k t) k) t (if Rlt_dec 0 t then v i else 0).
Proof.
  intros im t0. unfold readout.
  eapply is_derive_eq.
  - apply (is_derive_sum m (fun r t => v r * relu (with_entry W_O i k t r k))
      (fun r t => if (r =? i)%nat then if Rlt_dec 0 t then v i else 0 else 0)).
    intros r _. unfold with_entry. rewrite Nat.eqb_refl, Bool.andb_true_r.
    destruct (Nat.eqb_spec r i) as [->|_]; [|apply (is_derive_const (v r * relu (W_O r k)))].
    unfold relu. destruct (Rlt_dec 0 t) as [pos|neg].
    + apply is_derive_ext_loc with (fun t => v i * t).
      * apply (filter_imp (fun y => 0 < y)); [|now apply open_gt].
        intros y y0. now rewrite Rmax_right by lra.
      * auto_derive; [easy | ring].
    + apply is_derive_ext_loc with (fun _ => v i * 0).
      * apply (filter_imp (fun y => y < 0)); [|apply open_lt; lra].
        intros y y0. now rewrite Rmax_left by lra.
      * apply (is_derive_const (v i * 0)).
  - rewrite (sum_single m _ i im); [now rewrite Nat.eqb_refl|].
    intros r _ ne. apply Nat.eqb_neq in ne. now rewrite ne.
Qed.
