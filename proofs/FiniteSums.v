(** Finite sums of real numbers, written as on paper: [\sum_(k < n) f k] is f 0 + ... + f (n - 1).

    Nothing here is specific to the project; the other files rest on it. *)

From Coq Require Import Reals Lra Lia.
From Coquelicot Require Import Coquelicot.
Open Scope R_scope.

Fixpoint sum (n : nat) (f : nat -> R) : R :=
  match n with
  | O => 0
  | S m => sum m f + f m
  end.

Notation "\sum_ ( k < n ) F" := (sum n (fun k => F))
  (at level 35, k name, n at level 50, F at level 35, right associativity,
   format "\sum_ ( k  <  n )  F").

Lemma sum_ext n f g : (forall k, (k < n)%nat -> f k = g k) -> sum n f = sum n g.
Proof.
  induction n as [|n IH]; simpl; intros H; [easy|].
  rewrite IH by auto. now rewrite H by lia.
Qed.

Lemma sum_zero n f : (forall k, (k < n)%nat -> f k = 0) -> sum n f = 0.
Proof.
  induction n as [|n IH]; simpl; intros H; [easy|].
  rewrite IH, H by auto. lra.
Qed.

Lemma sum_plus n f g : \sum_(k < n) (f k + g k) = sum n f + sum n g.
Proof. induction n as [|n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_minus n f g : \sum_(k < n) (f k - g k) = sum n f - sum n g.
Proof. induction n as [|n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_scal n c f : \sum_(k < n) (c * f k) = c * sum n f.
Proof. induction n as [|n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_scal_r n c f : \sum_(k < n) (f k * c) = sum n f * c.
Proof. induction n as [|n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_const n c : \sum_(_ < n) c = INR n * c.
Proof. induction n as [|n IH]; [simpl; lra|]. rewrite S_INR. simpl. rewrite IH. lra. Qed.

Lemma sum_le n f g : (forall k, (k < n)%nat -> f k <= g k) -> sum n f <= sum n g.
Proof.
  induction n as [|n IH]; simpl; intros H; [lra|].
  apply Rplus_le_compat; auto.
Qed.

Lemma sum_lt n f g :
  (forall k, (k < n)%nat -> f k <= g k) -> (exists k, (k < n)%nat /\ f k < g k) ->
  sum n f < sum n g.
Proof.
  induction n as [|n IH]; simpl; intros H [k [kn fg]]; [lia|].
  destruct (Nat.eq_dec k n) as [->|kn'].
  - apply Rplus_le_lt_compat; auto. apply sum_le; auto.
  - apply Rplus_lt_le_compat; auto. apply IH; auto. exists k. split; [lia | easy].
Qed.

Lemma sum_nonneg n f : (forall k, (k < n)%nat -> 0 <= f k) -> 0 <= sum n f.
Proof.
  intros H. rewrite <- (sum_zero n (fun _ => 0)) by easy. now apply sum_le.
Qed.

Lemma sum_pos n f :
  (forall k, (k < n)%nat -> 0 <= f k) -> (exists k, (k < n)%nat /\ 0 < f k) -> 0 < sum n f.
Proof.
  intros H E. rewrite <- (sum_zero n (fun _ => 0)) by easy. now apply sum_lt.
Qed.

Lemma sum_abs n f : Rabs (sum n f) <= \sum_(k < n) Rabs (f k).
Proof.
  induction n as [|n IH]; simpl; [rewrite Rabs_R0; lra|].
  eapply Rle_trans; [apply Rabs_triang | lra].
Qed.

Lemma sum_le_const n f c : (forall k, (k < n)%nat -> f k <= c) -> sum n f <= INR n * c.
Proof. intros H. rewrite <- sum_const. now apply sum_le. Qed.

(** The first term split off. *)
Lemma sum_first n f : sum (S n) f = f O + \sum_(k < n) f (S k).
Proof. induction n as [|n IH]; simpl; [lra|]. simpl in IH. rewrite IH. lra. Qed.

Lemma sum_split n m f : sum (n + m) f = sum n f + \sum_(k < m) f (n + k)%nat.
Proof.
  induction m as [|m IH]; [rewrite Nat.add_0_r; simpl; lra|].
  rewrite Nat.add_succ_r. simpl. rewrite IH. lra.
Qed.

(** The order of the terms reversed. *)
Lemma sum_reverse n f : sum n f = \sum_(k < n) f (n - 1 - k)%nat.
Proof.
  revert f. induction n as [|n IH]; intros f; [easy|].
  rewrite sum_first, (IH (fun k => f (S k))). simpl.
  replace (n - 0 - n)%nat with O by lia.
  rewrite Rplus_comm. f_equal. apply sum_ext. intros k kn. f_equal. lia.
Qed.

Lemma sum_telescope n f : \sum_(k < n) (f (S k) - f k) = f n - f O.
Proof. induction n as [|n IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma sum_swap n m (f : nat -> nat -> R) :
  \sum_(i < n) \sum_(j < m) f i j = \sum_(j < m) \sum_(i < n) f i j.
Proof.
  induction n as [|n IH]; simpl; [now rewrite sum_zero|].
  now rewrite IH, sum_plus.
Qed.

(** Only one term differs from zero. *)
Lemma sum_single n f j :
  (j < n)%nat -> (forall k, (k < n)%nat -> k <> j -> f k = 0) -> sum n f = f j.
Proof.
  intros jn H. induction n as [|n IH]; [lia|]. simpl.
  destruct (Nat.eq_dec j n) as [->|ne].
  - rewrite sum_zero; [lra|]. intros k kn. apply H; lia.
  - rewrite IH, (H n); [lra | lia | lia | lia |]. intros k kn. apply H. lia.
Qed.

Lemma sum_INR n : \sum_(k < n) INR k = INR n * (INR n - 1) / 2.
Proof.
  induction n as [|n IH]; [simpl; lra|].
  rewrite S_INR. simpl. rewrite IH. field.
Qed.

(** The geometric sum and its derivative. *)
Lemma sum_geometric rho n : (1 - rho) * \sum_(k < n) rho ^ k = 1 - rho ^ n.
Proof. induction n as [|n IH]; simpl; [lra|]. rewrite Rmult_plus_distr_l, IH. ring. Qed.

Lemma sum_geometric_index rho n :
  (1 - rho) ^ 2 * \sum_(k < n) (INR k * rho ^ k)
  = rho * (1 - rho ^ n) - INR n * rho ^ n * (1 - rho).
Proof.
  induction n as [|n IH]; [simpl; ring|].
  cbn [sum]. rewrite Rmult_plus_distr_l, IH, S_INR. simpl. ring.
Qed.

Lemma exp_INR x n : exp (x * INR n) = exp x ^ n.
Proof.
  induction n as [|n IH]; [simpl; now rewrite Rmult_0_r, exp_0|].
  rewrite S_INR, Rmult_plus_distr_l, exp_plus, IH, Rmult_1_r. simpl. ring.
Qed.

Lemma is_derive_eq (f : R -> R) (x l l' : R) : is_derive f x l -> l = l' -> is_derive f x l'.
Proof. now intros H <-. Qed.

Lemma is_derive_sum n (f df : nat -> R -> R) x :
  (forall k, (k < n)%nat -> is_derive (f k) x (df k x)) ->
  is_derive (fun y => \sum_(k < n) f k y) x (\sum_(k < n) df k x).
Proof.
  induction n as [|n IH]; intros H; simpl.
  - exact (is_derive_const 0 x).
  - apply (is_derive_plus (fun y => \sum_(k < n) f k y) (f n)); auto.
Qed.

Lemma continuous_sum n (f : nat -> R -> R) x :
  (forall k, (k < n)%nat -> continuous (f k) x) ->
  continuous (fun y => \sum_(k < n) f k y) x.
Proof.
  induction n as [|n IH]; intros H; simpl.
  - apply continuous_const.
  - apply (continuous_plus (fun y => \sum_(k < n) f k y) (f n)); auto.
Qed.
