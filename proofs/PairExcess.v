(** Locality: how many irrelevant tokens lie inside the near pair and inside the far one, weighted
    and summed over all placements (docs/dynamics.md, "Locality"). *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation LocalityStep.
Import ListNotations.
Open Scope R_scope.

(** ** The excess of one placement *)

Lemma indicator_cases b : (b = true /\ indicator b = 1) \/ (b = false /\ indicator b = 0).
Proof. destruct b; [left | right]; easy. Qed.

Lemma inside_spec i n r : inside i n r = true <-> (i < r < i + n)%nat.
Proof. unfold inside. rewrite Bool.andb_true_iff, !Nat.ltb_lt. lia. Qed.

Lemma inside_false i n r : inside i n r = false <-> ~ (i < r < i + n)%nat.
Proof. rewrite <- inside_spec. destruct (inside i n r); easy. Qed.

Lemma apart_spec near far i j :
  apart near far (i, j) = true
  <-> (i <> j /\ i + near <> j /\ i <> j + far /\ i + near <> j + far)%nat.
Proof.
  unfold apart. rewrite Bool.negb_true_iff, !Bool.orb_false_iff, !Nat.eqb_neq. intuition lia.
Qed.

Lemma sum_indicator_eq n c : \sum_(r < n) indicator (r =? c)%nat = indicator (c <? n)%nat.
Proof.
  induction n as [|n IH]; [now destruct c|]. cbn [sum]. rewrite IH. unfold indicator.
  destruct (Nat.ltb_spec c n), (Nat.eqb_spec n c), (Nat.ltb_spec c (S n)); try lia; ring.
Qed.

Lemma sum_indicator_inside n i p :
  \sum_(r < n - 1) indicator (S i + r =? p)%nat = indicator (inside i n p).
Proof.
  destruct (Nat.le_gt_cases p i) as [le|gt].
  - rewrite sum_zero.
    + now rewrite (proj2 (inside_false i n p)) by lia.
    + intros r _. now rewrite (proj2 (Nat.eqb_neq _ _)) by lia.
  - rewrite (sum_ext _ _ (fun r => indicator (r =? p - S i)%nat)).
    + rewrite sum_indicator_eq. f_equal.
      destruct (inside i n p) eqn:E.
      * apply inside_spec in E. apply Nat.ltb_lt. lia.
      * apply inside_false in E. apply Nat.ltb_ge. lia.
    + intros r _. f_equal. destruct (Nat.eqb_spec (S i + r) p), (Nat.eqb_spec r (p - S i)); lia.
Qed.

Lemma irrelevant_inside_value n i p q :
  (0 < n)%nat -> p <> q ->
  irrelevant_inside n i p q
  = INR n - 1 - indicator (inside i n p) - indicator (inside i n q).
Proof.
  intros n0 pq. unfold irrelevant_inside.
  rewrite (sum_ext _ _ (fun r => 1 - indicator (S i + r =? p)%nat - indicator (S i + r =? q)%nat)).
  - rewrite !sum_minus, sum_const, !sum_indicator_inside, minus_INR by lia. simpl. ring.
  - intros r _. unfold indicator.
    destruct (Nat.eqb_spec (S i + r) p), (Nat.eqb_spec (S i + r) q); try lia; simpl; ring.
Qed.

(** How many tokens of the far pair lie inside the near one, and the other way round. *)
Definition far_in_near (near far i j : nat) : R :=
  indicator (inside i near j) + indicator (inside i near (j + far)).
Definition near_in_far (near far i j : nat) : R :=
  indicator (inside j far i) + indicator (inside j far (i + near)).

Lemma excess_value near far i j :
  (0 < near < far)%nat ->
  inside_excess near far (i, j)
  = (1 / 2) ^ near * (INR near - 1 - far_in_near near far i j)
    - (1 / 2) ^ far * (INR far - 1 - near_in_far near far i j).
Proof.
  intros order. unfold inside_excess, far_in_near, near_in_far.
  rewrite !irrelevant_inside_value by lia. ring.
Qed.

(** The near pair holds at most one token of the far pair, and where it does, the far pair holds one
    of the near pair's. *)
Lemma pairs_cross near far i j :
  (0 < near < far)%nat ->
  0 <= near_in_far near far i j <= 2
  /\ (far_in_near near far i j = 0
      \/ far_in_near near far i j = 1 /\ 1 <= near_in_far near far i j).
Proof.
  intros order. unfold far_in_near, near_in_far.
  destruct (indicator_cases (inside i near j)) as [[E1 ->]|[E1 ->]];
  destruct (indicator_cases (inside i near (j + far))) as [[E2 ->]|[E2 ->]];
  destruct (indicator_cases (inside j far i)) as [[E3 ->]|[E3 ->]];
  destruct (indicator_cases (inside j far (i + near))) as [[E4 ->]|[E4 ->]];
  split; try lra; try (left; lra); try (right; lra); exfalso;
  try apply inside_spec in E1; try apply inside_spec in E2;
  try apply inside_spec in E3; try apply inside_spec in E4;
  try apply inside_false in E1; try apply inside_false in E2;
  try apply inside_false in E3; try apply inside_false in E4; lia.
Qed.

(** (n - c) / 2^n falls from n = c + 1 on. *)
Lemma weighted_falls c n m :
  INR c + 1 <= INR n -> (n <= m)%nat ->
  (INR m - INR c) * (1 / 2) ^ m <= (INR n - INR c) * (1 / 2) ^ n.
Proof.
  intros cn le. induction le as [|m le IH]; [lra|].
  eapply Rle_trans; [|apply IH]. rewrite S_INR. simpl.
  apply le_INR in le. pose proof (pow_lt (1 / 2) m ltac:(lra)). nra.
Qed.

Lemma half_pow_pos n : 0 < (1 / 2) ^ n.
Proof. apply pow_lt. lra. Qed.

Lemma INR_at_least n m : (n <= m)%nat -> INR n <= INR m.
Proof. apply le_INR. Qed.

(** near >= 3: the excess is never negative; it is positive where the near pair holds no token of
    the far pair, and everywhere unless near = 3 and far = 4. *)
Lemma excess_near_3 near far i j :
  (3 <= near < far)%nat ->
  0 <= inside_excess near far (i, j)
  /\ (far_in_near near far i j = 0 \/ near <> 3%nat \/ far <> 4%nat ->
      0 < inside_excess near far (i, j)).
Proof.
  intros order. rewrite excess_value by lia.
  destruct (pairs_cross near far i j ltac:(lia)) as [[y0 y2] cross].
  set (x := far_in_near near far i j) in *. set (y := near_in_far near far i j) in *.
  clearbody x y.
  assert (n3 : 3 <= INR near) by (pose proof (INR_at_least 3 near ltac:(lia)) as Q; simpl in Q; lra).
  pose proof (half_pow_pos near) as Hn. pose proof (half_pow_pos far) as Hf.
  assert (next : (1 / 2) ^ S near = (1 / 2) ^ near / 2) by (simpl; field).
  assert (one : (INR far - 1) * (1 / 2) ^ far <= INR near / 2 * (1 / 2) ^ near).
  { pose proof (weighted_falls 1 (S near) far) as W. rewrite (S_INR near), next in W.
    simpl (INR 1) in W. specialize (W ltac:(lra) ltac:(lia)). lra. }
  assert (two : (INR far - 2) * (1 / 2) ^ far <= (INR near - 1) / 2 * (1 / 2) ^ near).
  { pose proof (weighted_falls 2 (S near) far) as W. rewrite (S_INR near), next in W.
    simpl (INR 2) in W. specialize (W ltac:(lra) ltac:(lia)). lra. }
  assert (strict : near <> 3%nat \/ far <> 4%nat ->
    (INR far - 2) * (1 / 2) ^ far < (INR near - 2) * (1 / 2) ^ near).
  { intros other. destruct (Nat.eq_dec near 3) as [->|ne].
    - pose proof (weighted_falls 2 5 far) as W. simpl in W |- *.
      specialize (W ltac:(lra) ltac:(lia)). lra.
    - assert (4 <= INR near) by
        (pose proof (INR_at_least 4 near ltac:(lia)) as Q; simpl in Q; lra).
      assert ((INR near - 1) / 2 * (1 / 2) ^ near < (INR near - 2) * (1 / 2) ^ near)
        by (apply Rmult_lt_compat_r; lra).
      lra. }
  assert (yf : 0 <= y * (1 / 2) ^ far) by (apply Rmult_le_pos; lra).
  assert (nn : 3 * (1 / 2) ^ near <= INR near * (1 / 2) ^ near) by (apply Rmult_le_compat_r; lra).
  destruct cross as [-> | [-> y1]].
  - split; [|intros _]; lra.
  - assert ((1 / 2) ^ far <= y * (1 / 2) ^ far)
      by (rewrite <- (Rmult_1_l ((1 / 2) ^ far)) at 1; apply Rmult_le_compat_r; lra).
    split; [lra|]. intros [zero|other]; [lra|]. specialize (strict other). lra.
Qed.

(** near = 1: nothing lies inside the near pair. *)
Lemma excess_near_1 far i j :
  (2 <= far)%nat -> apart 1 far (i, j) = true ->
  inside_excess 1 far (i, j) = - ((1 / 2) ^ far * (INR far - 1 - near_in_far 1 far i j))
  /\ 0 <= INR far - 1 - near_in_far 1 far i j.
Proof.
  intros far2 A. rewrite excess_value by lia.
  assert (empty : far_in_near 1 far i j = 0).
  { unfold far_in_near. rewrite (proj2 (inside_false i 1 j)) by lia.
    rewrite (proj2 (inside_false i 1 (j + far))) by lia. simpl. ring. }
  rewrite empty. split; [simpl; ring|].
  destruct (pairs_cross 1 far i j ltac:(lia)) as [[_ y2] _].
  destruct (Nat.eq_dec far 2) as [->|ne].
  - apply apart_spec in A. unfold near_in_far. simpl INR.
    rewrite (proj2 (inside_false j 2 i)) by lia.
    destruct (indicator_cases (inside j 2 (i + 1))) as [[E ->]|[_ ->]]; [|simpl; lra].
    apply inside_spec in E. lia.
  - pose proof (INR_at_least 3 far ltac:(lia)) as Q. simpl in Q. lra.
Qed.

(** near = 2 and far = 3: no placement has a positive excess. *)
Lemma excess_near_2_far_3 i j :
  apart 2 3 (i, j) = true ->
  inside_excess 2 3 (i, j) = - (1 / 8) * far_in_near 2 3 i j.
Proof.
  intros A. apply apart_spec in A. rewrite excess_value by lia.
  unfold far_in_near, near_in_far. simpl INR.
  destruct (indicator_cases (inside i 2 j)) as [[E1 ->]|[E1 ->]];
  destruct (indicator_cases (inside i 2 (j + 3))) as [[E2 ->]|[E2 ->]];
  destruct (indicator_cases (inside j 3 i)) as [[E3 ->]|[E3 ->]];
  destruct (indicator_cases (inside j 3 (i + 2))) as [[E4 ->]|[E4 ->]];
  try lra; exfalso;
  try apply inside_spec in E1; try apply inside_spec in E2;
  try apply inside_spec in E3; try apply inside_spec in E4;
  try apply inside_false in E1; try apply inside_false in E2;
  try apply inside_false in E3; try apply inside_false in E4; lia.
Qed.

(** ** The sum over placements *)

Definition excess_total (L near far : nat) : R :=
  total (inside_excess near far) (placements L near far).

(** The number of placements on which j - i takes one value. *)
Lemma diagonal a b s t :
  \sum_(i < a) \sum_(j < b) indicator (i + s =? j + t)%nat
  = INR (Nat.min b (a + s - t) - (s - t)).
Proof.
  rewrite sum_swap.
  rewrite (sum_ext _ _ (fun j => indicator ((s <=? j + t) && (j + t <? a + s))%nat%bool)).
  - induction b as [|b IH]; [easy|]. cbn [sum]. rewrite IH. unfold indicator.
    destruct (Nat.leb_spec s (b + t)), (Nat.ltb_spec (b + t) (a + s)); cbn [andb];
      try rewrite Rplus_0_r; try (f_equal; lia).
    rewrite <- S_INR. f_equal. lia.
  - intros j _. destruct (Nat.leb_spec s (j + t)) as [le|gt]; cbn [andb].
    + rewrite (sum_ext _ _ (fun i => indicator (i =? j + t - s)%nat)).
      * rewrite sum_indicator_eq. f_equal.
        destruct (Nat.ltb_spec (j + t - s) a), (Nat.ltb_spec (j + t) (a + s)); lia.
      * intros i _. f_equal. destruct (Nat.eqb_spec (i + s) (j + t)), (Nat.eqb_spec i (j + t - s)); lia.
    + apply sum_zero. intros i _. now rewrite (proj2 (Nat.eqb_neq _ _)) by lia.
Qed.

Lemma double_sum_le a b f g :
  (forall i j, (i < a)%nat -> (j < b)%nat -> f i j <= g i j) ->
  \sum_(i < a) \sum_(j < b) f i j <= \sum_(i < a) \sum_(j < b) g i j.
Proof. intros H. apply sum_le. intros i Hi. apply sum_le. auto. Qed.

Lemma indicator_true b : b = true -> indicator b = 1.
Proof. now intros ->. Qed.
Lemma indicator_false b : b = false -> indicator b = 0.
Proof. now intros ->. Qed.
Lemma indicator_nonneg b : 0 <= indicator b.
Proof. destruct b; simpl; lra. Qed.

(** The four ways in which a near and a far pair can collide exclude each other. *)
Definition collisions (near far i j : nat) : R :=
  indicator (i + 0 =? j + 0) + indicator (i + near =? j + 0)
  + indicator (i + 0 =? j + far) + indicator (i + near =? j + far).

Lemma apart_by_collisions near far i j :
  (0 < near < far)%nat -> indicator (apart near far (i, j)) = 1 - collisions near far i j.
Proof.
  intros order. unfold collisions, apart. rewrite !Nat.add_0_r.
  destruct (Nat.eqb_spec i j), (Nat.eqb_spec (i + near) j), (Nat.eqb_spec i (j + far)),
    (Nat.eqb_spec (i + near) (j + far)); try lia; simpl; ring.
Qed.

(** Over the grid of near = 2, with M = L - far first places of the far pair. *)
Lemma collisions_total M far :
  (3 <= far)%nat -> (0 < M)%nat ->
  \sum_(i < M + far - 2) \sum_(j < M) (1 - collisions 2 far i j)
  = INR (M + far - 2) * INR M - 2 * INR M - 2 * INR (M - 2).
Proof.
  intros far3 M0. unfold collisions.
  rewrite (sum_ext _ _ (fun i => INR M * 1 - \sum_(j < M) indicator (i + 0 =? j + 0)%nat
    - \sum_(j < M) indicator (i + 2 =? j + 0)%nat - \sum_(j < M) indicator (i + 0 =? j + far)%nat
    - \sum_(j < M) indicator (i + 2 =? j + far)%nat)).
  - rewrite !sum_minus, sum_const, !diagonal.
    replace (Nat.min M (M + far - 2 + 0 - 0) - (0 - 0))%nat with M by lia.
    replace (Nat.min M (M + far - 2 + 2 - 0) - (2 - 0))%nat with (M - 2)%nat by lia.
    replace (Nat.min M (M + far - 2 + 0 - far) - (0 - far))%nat with (M - 2)%nat by lia.
    replace (Nat.min M (M + far - 2 + 2 - far) - (2 - far))%nat with M by lia. ring.
  - intros i _. rewrite sum_minus, !sum_plus, sum_const. ring.
Qed.

Lemma crossing_totals M far :
  (3 <= far)%nat -> (0 < M)%nat ->
  \sum_(i < M + far - 2) \sum_(j < M) indicator (i + 1 =? j + 0)%nat = INR M - 1
  /\ \sum_(i < M + far - 2) \sum_(j < M) indicator (i + 1 =? j + far)%nat = INR M - 1
  /\ \sum_(i < M + far - 2) \sum_(j < M) indicator (i + 0 =? j + 1)%nat = INR M.
Proof.
  intros far3 M0. rewrite !diagonal.
  replace (Nat.min M (M + far - 2 + 1 - 0) - (1 - 0))%nat with (M - 1)%nat by lia.
  replace (Nat.min M (M + far - 2 + 1 - far) - (1 - far))%nat with (M - 1)%nat by lia.
  replace (Nat.min M (M + far - 2 + 0 - 1) - (0 - 1))%nat with M by lia.
  rewrite minus_INR by lia. simpl. lra.
Qed.

(** The tokens of the far pair inside the near pair, for near = 2. *)
Lemma far_in_near_2 far i j :
  far_in_near 2 far i j = indicator (i + 1 =? j + 0)%nat + indicator (i + 1 =? j + far)%nat.
Proof.
  unfold far_in_near. f_equal; f_equal.
  - destruct (inside i 2 j) eqn:E, (Nat.eqb_spec (i + 1) (j + 0)); try easy;
      [apply inside_spec in E | apply inside_false in E]; lia.
  - destruct (inside i 2 (j + far)) eqn:E, (Nat.eqb_spec (i + 1) (j + far)); try easy;
      [apply inside_spec in E | apply inside_false in E]; lia.
Qed.

Lemma far_in_near_apart far i j :
  (3 <= far)%nat -> 0 < far_in_near 2 far i j -> apart 2 far (i, j) = true.
Proof.
  intros far3. rewrite far_in_near_2. intros H. apply apart_spec.
  destruct (Nat.eqb_spec (i + 1) (j + 0)), (Nat.eqb_spec (i + 1) (j + far)); simpl in H; try lia; lra.
Qed.

Lemma excess_near_2_at_least far i j (c rest : R) :
  (3 <= far)%nat ->
  c <= 1 / 4 - (1 / 2) ^ far * (INR far - 1) -> rest <= (1 / 2) ^ far * near_in_far 2 far i j ->
  c * (1 - collisions 2 far i j) + indicator (apart 2 far (i, j)) * rest
    - 1 / 4 * far_in_near 2 far i j
  <= (if apart 2 far (i, j) then inside_excess 2 far (i, j) else 0).
Proof.
  intros far3 Hc Hrest. rewrite <- apart_by_collisions by lia.
  destruct (apart 2 far (i, j)) eqn:A; cbn [indicator].
  - rewrite excess_value by lia. simpl (INR 2). simpl ((1 / 2) ^ 2). lra.
  - destruct (Rlt_le_dec 0 (far_in_near 2 far i j)) as [pos|le]; [|].
    + apply (far_in_near_apart far i j far3) in pos. congruence.
    + assert (0 <= far_in_near 2 far i j)
        by (rewrite far_in_near_2; apply Rplus_le_le_0_compat; apply indicator_nonneg).
      lra.
Qed.

(** For far = 4: tokens of the near pair inside the far pair. *)
Lemma near_in_far_4 i j :
  2 * indicator (i + 0 =? j + 1)%nat + far_in_near 2 4 i j
  <= indicator (apart 2 4 (i, j)) * near_in_far 2 4 i j.
Proof.
  rewrite far_in_near_2. unfold near_in_far.
  assert (y0 : 0 <= indicator (inside j 4 i) + indicator (inside j 4 (i + 2)))
    by (apply Rplus_le_le_0_compat; apply indicator_nonneg).
  destruct (Nat.eqb_spec (i + 0) (j + 1)) as [E|E]; simpl (indicator true); simpl (indicator false).
  - rewrite (proj2 (Nat.eqb_neq (i + 1) (j + 0))) by lia.
    rewrite (proj2 (Nat.eqb_neq (i + 1) (j + 4))) by lia.
    rewrite (proj2 (apart_spec 2 4 i j)) by lia.
    rewrite (proj2 (inside_spec j 4 i)) by lia. rewrite (proj2 (inside_spec j 4 (i + 2))) by lia.
    simpl. lra.
  - destruct (Nat.eqb_spec (i + 1) (j + 0)) as [E1|E1], (Nat.eqb_spec (i + 1) (j + 4)) as [E2|E2];
      try lia; simpl (indicator true); simpl (indicator false).
    + rewrite (proj2 (apart_spec 2 4 i j)) by lia.
      rewrite (proj2 (inside_spec j 4 (i + 2))) by lia.
      pose proof (indicator_nonneg (inside j 4 i)). simpl. lra.
    + rewrite (proj2 (apart_spec 2 4 i j)) by lia.
      rewrite (proj2 (inside_spec j 4 i)) by lia.
      pose proof (indicator_nonneg (inside j 4 (i + 2))). simpl. lra.
    + pose proof (Rmult_le_pos _ _ (indicator_nonneg (apart 2 4 (i, j))) y0). lra.
Qed.

Lemma excess_total_sum L near far :
  excess_total L near far
  = \sum_(i < L - near) \sum_(j < L - far)
      (if apart near far (i, j) then inside_excess near far (i, j) else 0).
Proof. apply total_placements. Qed.

Lemma double_sum_of_bounds a b f g h p q r :
  \sum_(i < a) \sum_(j < b) (p * f i j + q * g i j + r * h i j)
  = p * (\sum_(i < a) \sum_(j < b) f i j) + q * (\sum_(i < a) \sum_(j < b) g i j)
    + r * (\sum_(i < a) \sum_(j < b) h i j).
Proof.
  rewrite <- !sum_scal, <- !sum_plus. apply sum_ext. intros i _.
  now rewrite !sum_plus, !sum_scal.
Qed.

Lemma excess_total_near_2 L far :
  (4 <= far < L)%nat -> 0 < excess_total L 2 far.
Proof.
  intros [far4 fit]. rewrite excess_total_sum.
  set (M := (L - far)%nat). replace (L - 2)%nat with (M + far - 2)%nat by lia.
  assert (M0 : (0 < M)%nat) by lia.
  assert (M1 : 1 <= INR M) by (apply (INR_at_least 1); lia).
  destruct (crossing_totals M far ltac:(lia) M0) as [C1 [C2 C3]].
  pose proof (collisions_total M far ltac:(lia) M0) as P.
  assert (room : (INR (M - 2) = INR M - 2 \/ (INR (M - 2) = 0 /\ INR M = 1))).
  { destruct (Nat.eq_dec M 1) as [->|ne]; [right; simpl; lra|]. left. rewrite minus_INR by lia.
    simpl. lra. }
  assert (wide : INR (M + far - 2) = INR M + INR far - 2)
    by (rewrite minus_INR, plus_INR by lia; simpl; lra).
  destruct (Nat.eq_dec far 4) as [four|ne].
  - subst far.
    apply Rlt_le_trans with
      (\sum_(i < M + 4 - 2) \sum_(j < M) (1 / 16 * (1 - collisions 2 4 i j)
           + 2 / 16 * indicator (i + 0 =? j + 1)%nat + - (3 / 16) * far_in_near 2 4 i j)).
    2: { apply double_sum_le. intros i j _ _. refine (Rle_trans _ _ _ _ (excess_near_2_at_least 4 i j (1 / 16)
                ((1 / 2) ^ 4 * near_in_far 2 4 i j) _ _ _)).
              - pose proof (near_in_far_4 i j) as K. simpl ((1 / 2) ^ 4). lra.
              - lia.
              - simpl. lra.
              - lra. }
    rewrite (double_sum_of_bounds _ _ (fun i j => 1 - collisions 2 4 i j)
      (fun i j => indicator (i + 0 =? j + 1)%nat) (far_in_near 2 4)), P, C3.
    rewrite (sum_ext _ (fun i => \sum_(j < M) far_in_near 2 4 i j)
      (fun i => \sum_(j < M) indicator (i + 1 =? j + 0)%nat
                + \sum_(j < M) indicator (i + 1 =? j + 4)%nat))
      by (intros i _; rewrite <- sum_plus; apply sum_ext; intros j _; apply far_in_near_2).
    rewrite sum_plus, C1, C2, wide. replace (INR 4) with 4 by (simpl; ring).
    destruct room as [-> | [-> ->]]; [|lra].
    pose proof (pow2_ge_0 (INR M - 3)). nra.
  - assert (F5 : 5 <= INR far) by (pose proof (INR_at_least 5 far ltac:(lia)) as Q; simpl in Q; lra).
    apply Rlt_le_trans with
      (\sum_(i < M + far - 2) \sum_(j < M) (1 / 8 * (1 - collisions 2 far i j)
           + 0 * indicator (i + 0 =? j + 1)%nat + - (1 / 4) * far_in_near 2 far i j)).
    2: { apply double_sum_le. intros i j _ _. refine (Rle_trans _ _ _ _ (excess_near_2_at_least far i j (1 / 8) 0 _ _ _)).
              - lra.
              - lia.
              - pose proof (weighted_falls 1 5 far) as W. simpl in W.
                specialize (W ltac:(lra) ltac:(lia)). lra.
              - apply Rmult_le_pos; [left; apply half_pow_pos|].
                now destruct (pairs_cross 2 far i j ltac:(lia)) as [[y0 _] _]. }
    rewrite (double_sum_of_bounds _ _ (fun i j => 1 - collisions 2 far i j)
      (fun i j => indicator (i + 0 =? j + 1)%nat) (far_in_near 2 far)), P, C3.
    rewrite (sum_ext _ (fun i => \sum_(j < M) far_in_near 2 far i j)
      (fun i => \sum_(j < M) indicator (i + 1 =? j + 0)%nat
                + \sum_(j < M) indicator (i + 1 =? j + far)%nat))
      by (intros i _; rewrite <- sum_plus; apply sum_ext; intros j _; apply far_in_near_2).
    rewrite sum_plus, C1, C2, wide. destruct room as [-> | [-> ->]]; [|lra].
    pose proof (pow2_ge_0 (2 * INR M - 5)).
    assert (0 <= (INR far - 5) * INR M) by (apply Rmult_le_pos; lra). nra.
Qed.
