(** Locality: which way one population gradient step moves the gate on irrelevant features
    (docs/dynamics.md, "Locality").

    By [locality_irrelevant_step] the step is minus a positive number times the mean over placements
    of [inside_excess]. Its sign is found here for every near, far and L. *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation LocalityStep PairExcess.
Import ListNotations.
Open Scope R_scope.

Lemma total_nonneg {A} (l : list A) f : (forall a, In a l -> 0 <= f a) -> 0 <= total f l.
Proof.
  intros H. rewrite <- (Rmult_0_r (INR (length l))), <- total_const. now apply total_le.
Qed.

Lemma total_pos {A} (l : list A) f :
  (forall a, In a l -> 0 <= f a) -> (exists a, In a l /\ 0 < f a) -> 0 < total f l.
Proof.
  intros H E. rewrite <- (Rmult_0_r (INR (length l))), <- total_const. now apply total_lt.
Qed.

Lemma placed L near far i j :
  (i + near < L)%nat -> (j + far < L)%nat -> apart near far (i, j) = true ->
  In (i, j) (placements L near far).
Proof.
  intros Hi Hj A. apply filter_In. split; [|easy]. apply in_prod; apply in_seq; lia.
Qed.

Lemma some_placement L near far :
  placements L near far <> [] ->
  exists i j, In (i, j) (placements L near far)
    /\ (i + near < L)%nat /\ (j + far < L)%nat /\ apart near far (i, j) = true.
Proof.
  intros ne. destruct (placements L near far) as [|[i j] rest] eqn:P; [easy|].
  exists i, j. split; [now left|]. apply placements_spec. rewrite P. now left.
Qed.

Section Sign.

Variables (L d near far : nat) (a : nat -> R) (k : nat).
Hypotheses (d3 : (3 <= d)%nat) (irrelevant : (2 <= k < d)%nat).
Hypothesis (order : (0 < near < far)%nat).
Hypothesis (ne : placements L near far <> []).
Hypothesis (read : a 1%nat < a 0%nat).

(** The step is minus a positive number times the total excess. *)
Lemma step_by_total :
  exists c, 0 < c
    /\ gate_step L a (locality_population L d near far) k = - c * excess_total L near far.
Proof.
  rewrite locality_irrelevant_step by easy.
  destruct (some_placement L near far ne) as [i [j [_ [Hi _]]]].
  assert (0 < INR L) by (apply lt_0_INR; lia).
  assert (0 < INR (d - 2)) by (apply lt_0_INR; lia).
  pose proof (length_pos _ ne).
  exists ((a 0%nat - a 1%nat) / (8 * INR L * INR (d - 2)) / INR (length (placements L near far))).
  split.
  - repeat apply Rdiv_lt_0_compat; try easy; [lra|]. repeat apply Rmult_lt_0_compat; lra.
  - unfold mean, excess_total. field. lra.
Qed.

(** near >= 3: the gate closes for irrelevant features. The step is never positive; it is negative
    for every placement that fits, with one exception: near = 3 and far = 4 in fewer than nine
    tokens, where no placement keeps the pairs apart and the step is exactly zero. *)
Theorem locality_closes_near_3 :
  (3 <= near)%nat ->
  gate_step L a (locality_population L d near far) k <= 0
  /\ ((near <> 3 \/ far <> 4 \/ 9 <= L)%nat ->
      gate_step L a (locality_population L d near far) k < 0).
Proof.
  intros n3. destruct step_by_total as [c [c0 ->]].
  assert (all : forall p, In p (placements L near far) -> 0 <= inside_excess near far p)
    by (intros [i j] _; now apply excess_near_3).
  split.
  - pose proof (Rmult_le_pos c _ (Rlt_le _ _ c0) (total_nonneg _ _ all)).
    unfold excess_total. lra.
  - intros H. enough (0 < excess_total L near far) as E
      by (pose proof (Rmult_lt_0_compat c _ c0 E); lra).
    apply total_pos; [easy|].
    destruct (Nat.eq_dec near 3) as [n|n]; [destruct (Nat.eq_dec far 4) as [f|f]|].
    + exists (0, 4)%nat. rewrite n, f. split.
      * apply placed; try lia. apply apart_spec. lia.
      * apply excess_near_3; [lia|]. left. unfold far_in_near.
        rewrite (proj2 (inside_false 0 3 4)) by lia.
        rewrite (proj2 (inside_false 0 3 (4 + 4))) by lia. simpl. ring.
    + destruct (some_placement L near far ne) as [i [j [I _]]]. exists (i, j). split; [easy|].
      apply excess_near_3; tauto.
    + destruct (some_placement L near far ne) as [i [j [I _]]]. exists (i, j). split; [easy|].
      apply excess_near_3; tauto.
Qed.

(** near = 2 and far >= 4: the gate closes for irrelevant features. *)
Theorem locality_closes_near_2 :
  near = 2%nat -> (4 <= far)%nat ->
  gate_step L a (locality_population L d near far) k < 0.
Proof.
  intros n2 f4. destruct step_by_total as [c [c0 ->]].
  destruct (some_placement L near far ne) as [i [j [_ [_ [Hj _]]]]].
  rewrite n2. pose proof (excess_total_near_2 L far ltac:(lia)) as E.
  pose proof (Rmult_lt_0_compat c _ c0 E). lra.
Qed.

(** near = 2 and far = 3: the gate opens for irrelevant features. Pairs that do not cross tie, and
    pairs that cross leave an irrelevant token inside the far pair only. *)
Theorem locality_opens_near_2_far_3 :
  near = 2%nat -> far = 3%nat ->
  0 < gate_step L a (locality_population L d near far) k.
Proof.
  intros n2 f3. destruct step_by_total as [c [c0 ->]].
  destruct (some_placement L near far ne) as [i [j [_ [Hi [Hj A]]]]].
  rewrite n2, f3 in *. apply apart_spec in A.
  enough (0 < - excess_total L 2 3) as E by (pose proof (Rmult_lt_0_compat c _ c0 E); lra).
  unfold excess_total.
  replace (- total (inside_excess 2 3) (placements L 2 3))
    with (total (fun p => -1 * inside_excess 2 3 p) (placements L 2 3)) by (rewrite total_scal; ring).
  apply total_pos.
  - intros [p q] I. destruct (placements_spec _ _ _ _ _ I) as [_ [_ Apq]].
    rewrite excess_near_2_far_3 by easy.
    pose proof (indicator_nonneg (inside p 2 q)). pose proof (indicator_nonneg (inside p 2 (q + 3))).
    unfold far_in_near. lra.
  - exists (0, 1)%nat. assert (Apq : apart 2 3 (0%nat, 1%nat) = true) by (apply apart_spec; lia).
    split; [apply placed; try easy; lia|]. rewrite excess_near_2_far_3 by easy.
    unfold far_in_near. rewrite (proj2 (inside_spec 0 2 1)) by lia.
    rewrite (proj2 (inside_false 0 2 (1 + 3))) by lia. simpl. lra.
Qed.

(** near = 1: the sign turns. The step is never negative, and positive where the sequence has room
    for a far pair that leaves an irrelevant token inside. *)
Theorem locality_opens_near_1 :
  near = 1%nat ->
  0 <= gate_step L a (locality_population L d near far) k
  /\ ((4 <= far \/ far + 3 <= L)%nat ->
      0 < gate_step L a (locality_population L d near far) k).
Proof.
  intros n1. destruct step_by_total as [c [c0 ->]]. rewrite n1 in *.
  assert (all : forall p, In p (placements L 1 far) -> 0 <= -1 * inside_excess 1 far p).
  { intros [i j] I. destruct (placements_spec _ _ _ _ _ I) as [_ [_ A]].
    destruct (excess_near_1 far i j ltac:(lia) A) as [-> y].
    pose proof (Rmult_le_pos _ _ (Rlt_le _ _ (half_pow_pos far)) y). lra. }
  assert (turned : total (fun p => -1 * inside_excess 1 far p) (placements L 1 far)
                   = - excess_total L 1 far) by (unfold excess_total; rewrite total_scal; ring).
  split.
  - pose proof (total_nonneg _ _ all) as E. rewrite turned in E.
    pose proof (Rmult_le_pos c _ (Rlt_le _ _ c0) E). lra.
  - intros H. enough (0 < - excess_total L 1 far) as E
      by (pose proof (Rmult_lt_0_compat c _ c0 E); lra).
    rewrite <- turned. apply total_pos; [easy|].
    assert (room : exists i j, In (i, j) (placements L 1 far)
      /\ 0 < INR far - 1 - near_in_far 1 far i j).
    { destruct (Nat.le_gt_cases 4 far) as [f4|f3].
      - destruct (some_placement L 1 far ne) as [i [j [I _]]]. exists i, j. split; [easy|].
        destruct (pairs_cross 1 far i j ltac:(lia)) as [[_ y2] _].
        pose proof (INR_at_least 4 far f4) as Q. simpl in Q. lra.
      - exists 0%nat, 2%nat. split.
        + apply placed; try lia. apply apart_spec. lia.
        + unfold near_in_far. rewrite (proj2 (inside_false 2 far 0)) by lia.
          rewrite (proj2 (inside_false 2 far (0 + 1))) by lia.
          pose proof (INR_at_least 2 far ltac:(lia)) as Q. simpl in Q |- *. lra. }
    destruct room as [i [j [I y]]]. exists (i, j). split; [easy|].
    destruct (placements_spec _ _ _ _ _ I) as [_ [_ A]].
    destruct (excess_near_1 far i j ltac:(lia) A) as [-> _].
    pose proof (Rmult_lt_0_compat _ _ (half_pow_pos far) y). lra.
Qed.

End Sign.
