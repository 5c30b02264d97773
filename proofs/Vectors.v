(** Vectors and matrices as functions of an index, with their norms. *)

From Coq Require Import Reals Lra Lia.
From Keelback Require Import FiniteSums.
Open Scope R_scope.

Definition dot (d : nat) (x y : nat -> R) : R := \sum_(j < d) (x j * y j).

(** Euclidean norm. *)
Definition norm (d : nat) (x : nat -> R) : R := sqrt (\sum_(j < d) (x j ^ 2)).

Definition l1_norm (d : nat) (x : nat -> R) : R := \sum_(j < d) Rabs (x j).

(** W x, where W has as many columns as x has entries. *)
Definition matvec (columns : nat) (W : nat -> nat -> R) (x : nat -> R) (i : nat) : R :=
  \sum_(j < columns) (W i j * x j).

(** The spectral norm of W is at most B. *)
Definition spectral_norm_le (rows columns : nat) (W : nat -> nat -> R) (B : R) : Prop :=
  forall x, norm rows (matvec columns W x) <= B * norm columns x.

Definition entrywise_l1 (rows columns : nat) (W : nat -> nat -> R) : R :=
  \sum_(i < rows) \sum_(j < columns) Rabs (W i j).

(** The first basis vector, and the matrix e_1 e_1^T. *)
Definition first (j : nat) : R := if (j =? 0)%nat then 1 else 0.
Definition corner (i j : nat) : R := first i * first j.

Lemma norm_nonneg d x : 0 <= norm d x.
Proof. apply sqrt_pos. Qed.

Lemma sum_squares_nonneg d (x : nat -> R) : 0 <= \sum_(j < d) (x j ^ 2).
Proof. apply sum_nonneg. intros j _. apply pow2_ge_0. Qed.

Lemma norm_square d x : norm d x ^ 2 = \sum_(j < d) (x j ^ 2).
Proof. unfold norm. rewrite pow2_sqrt; [easy | apply sum_squares_nonneg]. Qed.

Lemma norm_ext d x y : (forall j, (j < d)%nat -> x j = y j) -> norm d x = norm d y.
Proof.
  intros H. unfold norm. f_equal. apply sum_ext. intros j jd. now rewrite H.
Qed.

(** A bound on the sum of squares bounds the norm. *)
Lemma norm_le d x B : 0 <= B -> \sum_(j < d) (x j ^ 2) <= B ^ 2 -> norm d x <= B.
Proof.
  intros B0 H. unfold norm. rewrite <- (sqrt_pow2 B B0). now apply sqrt_le_1_alt.
Qed.

(** Cauchy-Schwarz, with absolute values inside the sum. *)
Lemma cauchy_schwarz d x y : \sum_(j < d) Rabs (x j * y j) <= norm d x * norm d y.
Proof.
  induction d as [|d IH].
  - simpl. unfold norm. simpl. rewrite sqrt_0. lra.
  - cbn [sum]. eapply Rle_trans; [apply Rplus_le_compat_r, IH|]. rewrite Rabs_mult.
    apply Rsqr_incr_0_var; [|apply Rmult_le_pos; apply norm_nonneg].
    rewrite !Rsqr_pow2, Rpow_mult_distr, (norm_square (S d)), (norm_square (S d)). cbn [sum].
    rewrite <- !norm_square, <- (pow2_abs (x d)), <- (pow2_abs (y d)).
    pose proof (norm_nonneg d x). pose proof (norm_nonneg d y).
    pose proof (Rabs_pos (x d)). pose proof (Rabs_pos (y d)).
    pose proof (pow2_ge_0 (norm d x * Rabs (y d) - norm d y * Rabs (x d))). nra.
Qed.

Lemma dot_le d x y : Rabs (dot d x y) <= norm d x * norm d y.
Proof. eapply Rle_trans; [apply sum_abs | apply cauchy_schwarz]. Qed.

Lemma norm_scal d c x : norm d (fun j => c * x j) = Rabs c * norm d x.
Proof.
  unfold norm. rewrite (sum_ext d _ (fun j => c ^ 2 * x j ^ 2)), sum_scal by (intros; ring).
  rewrite sqrt_mult_alt by apply pow2_ge_0. f_equal.
  rewrite <- pow2_abs. apply sqrt_pow2, Rabs_pos.
Qed.

Lemma sum_first_only d f : (0 < d)%nat -> \sum_(j < d) (f j * first j) = f O.
Proof.
  intros d0. rewrite (sum_single d _ 0 d0).
  - unfold first. simpl. lra.
  - intros k _ k0. unfold first. apply Nat.eqb_neq in k0. rewrite k0. lra.
Qed.

Lemma first_square j : first j ^ 2 = first j.
Proof. unfold first. destruct (j =? 0)%nat; ring. Qed.

Lemma norm_first d : (0 < d)%nat -> norm d first = 1.
Proof.
  intros d0. unfold norm. rewrite (sum_ext d _ (fun j => 1 * first j))
    by (intros; rewrite first_square; ring).
  rewrite (sum_first_only d (fun _ => 1)) by easy. apply sqrt_1.
Qed.

Lemma l1_norm_first d c : (0 < d)%nat -> 0 <= c -> l1_norm d (fun j => c * first j) = c.
Proof.
  intros d0 c0. unfold l1_norm. rewrite (sum_ext d _ (fun j => c * first j)).
  - now rewrite (sum_first_only d (fun _ => c)).
  - intros j _. apply Rabs_pos_eq. unfold first. destruct (j =? 0)%nat; lra.
Qed.

Lemma matvec_corner d c x i :
  (0 < d)%nat -> matvec d (fun i j => c * corner i j) x i = c * x O * first i.
Proof.
  intros d0. unfold matvec, corner.
  rewrite (sum_ext d _ (fun j => c * first i * x j * first j)) by (intros; ring).
  rewrite (sum_first_only d (fun j => c * first i * x j)) by easy. ring.
Qed.

Lemma entry_le_norm d x j : (j < d)%nat -> Rabs (x j) <= norm d x.
Proof.
  intros jd. rewrite <- (sqrt_pow2 (Rabs (x j))) by apply Rabs_pos.
  rewrite pow2_abs. unfold norm. apply sqrt_le_1_alt.
  assert (single : \sum_(k < d) (if (k =? j)%nat then x k ^ 2 else 0) = x j ^ 2).
  { rewrite (sum_single d _ j jd), Nat.eqb_refl; [easy|].
    intros k _ ne. apply Nat.eqb_neq in ne. now rewrite ne. }
  rewrite <- single. apply sum_le. intros k _. destruct (k =? j)%nat; [lra | apply pow2_ge_0].
Qed.

Lemma spectral_corner rows columns c :
  (0 < rows)%nat -> (0 < columns)%nat -> 0 <= c ->
  spectral_norm_le rows columns (fun i j => c * corner i j) c.
Proof.
  intros r0 c0 nonneg x.
  rewrite (norm_ext rows _ (fun i => c * x O * first i)) by (intros; now apply matvec_corner).
  rewrite norm_scal, norm_first, Rmult_1_r, Rabs_mult, (Rabs_pos_eq c) by easy.
  apply Rmult_le_compat_l; [easy | now apply entry_le_norm].
Qed.

Lemma entrywise_corner rows columns c :
  (0 < rows)%nat -> (0 < columns)%nat -> 0 <= c ->
  entrywise_l1 rows columns (fun i j => c * corner i j) = c.
Proof.
  intros r0 c0 nonneg. unfold entrywise_l1.
  rewrite (sum_ext rows _ (fun i => c * first i)).
  - now rewrite (sum_first_only rows (fun _ => c)).
  - intros i _. rewrite (sum_ext columns _ (fun j => c * first i * first j)).
    + now rewrite (sum_first_only columns (fun _ => c * first i)).
    + intros j _. unfold corner. rewrite Rabs_pos_eq; [ring|].
      apply Rmult_le_pos; [easy|]. unfold first.
      destruct (i =? 0)%nat, (j =? 0)%nat; lra.
Qed.

(** A bilinear form in two pairs of vectors whose entries are weighted by at most K. *)
Lemma weighted_form_bound d N (x y b c : nat -> R) (E : nat -> nat -> R) K :
  (forall j n, (j < d)%nat -> (n < N)%nat -> Rabs (E j n) <= K) -> 0 <= K ->
  Rabs (\sum_(j < d) \sum_(n < N) (x j * c n * E j n * b n * y j))
  <= K * ((norm d x * norm d y) * (norm N c * norm N b)).
Proof.
  intros HE K0.
  apply Rle_trans with
    (K * (\sum_(j < d) Rabs (x j * y j) * \sum_(n < N) Rabs (c n * b n))).
  - rewrite <- sum_scal_r, <- sum_scal. eapply Rle_trans; [apply sum_abs|].
    apply sum_le. intros j jd. rewrite <- Rmult_assoc, (Rmult_comm K), Rmult_assoc.
    rewrite <- sum_scal, <- sum_scal. eapply Rle_trans; [apply sum_abs|].
    apply sum_le. intros n nN.
    replace (x j * c n * E j n * b n * y j) with (x j * y j * (c n * b n) * E j n) by ring.
    rewrite !Rabs_mult.
    replace (Rabs (x j) * Rabs (y j) * (K * (Rabs (c n) * Rabs (b n))))
      with (Rabs (x j) * Rabs (y j) * (Rabs (c n) * Rabs (b n)) * K) by ring.
    apply Rmult_le_compat_l; [|now apply HE].
    repeat apply Rmult_le_pos; apply Rabs_pos.
  - apply Rmult_le_compat_l; [easy|].
    apply Rmult_le_compat; try apply cauchy_schwarz; apply sum_nonneg; intros; apply Rabs_pos.
Qed.
