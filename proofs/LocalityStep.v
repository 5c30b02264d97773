(** Locality: the signs of one population gradient step (docs/dynamics.md).

    Two tokens of o_+ stand [near] positions apart and two of o_- [far] positions, near < far; where
    they stand is uniform over all placements without overlap, and every other token is an irrelevant
    feature, uniform among d - 2. *)

From Coq Require Import Reals Lra Lia List ZifyBool.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation.
Import ListNotations.
Open Scope R_scope.

(** The sequence with o_+ at i and i + near, o_- at j and j + far, and the filling elsewhere. *)
Definition pair_sequence (near far : nat) (placement : nat * nat) (filling : list nat) : sequence :=
  fun s =>
    let (i, j) := placement in
    if ((s =? i) || (s =? i + near))%nat%bool then 0%nat
    else if ((s =? j) || (s =? j + far))%nat%bool then 1%nat
    else nth s filling 2%nat.

(** No two of the four tokens at one position. *)
Definition apart (near far : nat) (placement : nat * nat) : bool :=
  let (i, j) := placement in
  negb ((i =? j) || (i + near =? j) || (i =? j + far) || (i + near =? j + far))%nat%bool.

Definition placements (L near far : nat) : list (nat * nat) :=
  filter (apart near far) (list_prod (seq 0 (L - near)) (seq 0 (L - far))).

Definition fillings (L d : nat) : list (list nat) := words (seq 2 (d - 2)) L.

(** The population of the code: every placement with every filling. *)
Definition locality_population (L d near far : nat) : list sequence :=
  flat_map (fun placement => map (pair_sequence near far placement) (fillings L d))
           (placements L near far).

Definition indicator (b : bool) : R := if b then 1 else 0.

(** Whether r lies strictly between i and i + n. *)
Definition inside (i n r : nat) : bool := ((i <? r) && (r <? i + n))%nat%bool.

(** The irrelevant tokens strictly inside the pair at i and i + n, where p and q hold the tokens of
    the other class. *)
Definition irrelevant_inside (n i p q : nat) : R :=
  \sum_(r < n - 1) indicator (negb ((S i + r =? p) || (S i + r =? q))%nat%bool).

(** 2^{-near} times the irrelevant tokens inside the near pair, less 2^{-far} times those inside
    the far pair. *)
Definition inside_excess (near far : nat) (placement : nat * nat) : R :=
  let (i, j) := placement in
  (1 / 2) ^ near * irrelevant_inside near i j (j + far)
  - (1 / 2) ^ far * irrelevant_inside far j i (i + near).

(** ** Averages over placements and fillings *)

Lemma mean_grouped {A B C} (h : A -> B -> C) (l : list A) (l' : list B) (f : C -> R) :
  l <> [] -> l' <> [] ->
  mean (flat_map (fun a => map (h a) l') l) f = mean l (fun a => mean l' (fun b => f (h a b))).
Proof.
  intros ne ne'. unfold mean at 1. rewrite total_flat_map.
  assert (len : length (flat_map (fun a => map (h a) l') l) = (length l * length l')%nat).
  { clear. induction l as [|a l IH]; [easy|]. simpl. rewrite app_length, map_length, IH. easy. }
  rewrite len, mult_INR. pose proof (length_pos l ne). pose proof (length_pos l' ne').
  unfold mean. rewrite (total_ext l (fun a => total (fun b => f (h a b)) l' / INR (length l'))
    (fun a => / INR (length l') * total f (map (h a) l')))
    by (intros; rewrite total_map; field; lra).
  rewrite total_scal. field. lra.
Qed.

Lemma total_filter {A} (f : A -> R) (p : A -> bool) l :
  total f (filter p l) = total (fun a => if p a then f a else 0) l.
Proof.
  induction l as [|a l IH]; [easy|]. simpl. destruct (p a); simpl; rewrite IH; ring.
Qed.

Lemma total_list_prod {A B} (f : A * B -> R) l (l' : list B) :
  total f (list_prod l l') = total (fun a => total (fun b => f (a, b)) l') l.
Proof.
  induction l as [|a l IH]; [easy|]. simpl. now rewrite total_app, total_map, IH.
Qed.

Lemma total_seq f n : total f (seq 0 n) = sum n f.
Proof.
  induction n as [|n IH]; [easy|]. rewrite seq_S, total_app, IH. simpl. ring.
Qed.

(** The sum over placements, as a double sum. *)
Lemma total_placements L near far f :
  total f (placements L near far)
  = \sum_(i < L - near) \sum_(j < L - far) (if apart near far (i, j) then f (i, j) else 0).
Proof.
  unfold placements. rewrite total_filter, total_list_prod, total_seq.
  apply sum_ext. intros i _. apply total_seq.
Qed.

Lemma placements_spec L near far i j :
  In (i, j) (placements L near far) ->
  (i + near < L)%nat /\ (j + far < L)%nat /\ apart near far (i, j) = true.
Proof.
  intros I. apply filter_In in I. destruct I as [I A]. apply in_prod_iff in I.
  destruct I as [I J]. apply in_seq in I, J. split; [lia|]. split; [lia | easy].
Qed.

(** ** One sequence *)

Lemma pair_feature near far i j w s :
  List.Forall (fun a => 2 <= a)%nat w ->
  (2 <= nth s w 2)%nat
  /\ same (pair_sequence near far (i, j) w s) 0
     = indicator ((s =? i) || (s =? i + near))%nat%bool.
Proof.
  intros F. assert (low : (2 <= nth s w 2)%nat).
  { destruct (Nat.lt_ge_cases s (length w)) as [lt|ge].
    - rewrite Forall_forall in F. apply F. now apply nth_In.
    - rewrite nth_overflow; lia. }
  split; [easy|]. unfold pair_sequence, indicator. destruct ((s =? i) || _)%bool; [easy|].
  destruct ((s =? j) || _)%bool; [easy|]. apply same_diff. lia.
Qed.

Lemma pair_feature_one near far i j w s :
  List.Forall (fun a => 2 <= a)%nat w -> apart near far (i, j) = true ->
  same (pair_sequence near far (i, j) w s) 1
  = indicator ((s =? j) || (s =? j + far))%nat%bool.
Proof.
  intros F A. destruct (pair_feature near far i j w s F) as [low _].
  unfold pair_sequence, indicator, apart in *.
  destruct ((s =? i) || (s =? i + near))%bool eqn:E.
  - destruct ((s =? j) || (s =? j + far))%bool eqn:E'; [lia | easy].
  - destruct ((s =? j) || (s =? j + far))%bool; [easy|]. apply same_diff. lia.
Qed.

(** With exactly two tokens of c, at i and i + n, there is one pair. *)
Lemma between_one_pair c mark X L i n :
  (0 < n)%nat -> (i + n < L)%nat ->
  (forall s, (s < L)%nat -> same (X s) c = indicator ((s =? i) || (s =? i + n))%nat%bool) ->
  between c mark X L = (1 / 2) ^ S n * \sum_(r < n - 1) mark (X (S i + r)%nat).
Proof.
  intros n0 fit H. unfold between.
  rewrite (sum_single L _ (i + n)%nat fit).
  - rewrite (sum_single (i + n) _ i) by
      (try lia; intros s sl ne; rewrite !H by lia; unfold indicator;
       replace ((s =? i) || (s =? i + n))%nat%bool with false by lia; ring).
    rewrite !H by lia. unfold indicator.
    replace ((i =? i) || (i =? i + n))%nat%bool with true by lia.
    replace ((i + n =? i) || (i + n =? i + n))%nat%bool with true by lia.
    replace (i + n - i)%nat with n by lia. replace (i + n - S i)%nat with (n - 1)%nat by lia. ring.
  - intros l lL ne. apply sum_zero. intros s sl. rewrite !H by lia. unfold indicator.
    destruct ((s =? i) || (s =? i + n))%nat%bool eqn:Es; [|ring].
    destruct ((l =? i) || (l =? i + n))%nat%bool eqn:El; [lia | ring].
Qed.

Lemma fillings_irrelevant L d w :
  In w (fillings L d) -> List.Forall (fun a => 2 <= a)%nat w.
Proof.
  intros I. apply words_spec in I. destruct I as [_ F]. revert F. apply Forall_impl.
  intros a I. apply in_seq in I. lia.
Qed.

Lemma letters_not_empty d : (3 <= d)%nat -> seq 2 (d - 2) <> [].
Proof. intros d3 E. apply (f_equal (@length nat)) in E. rewrite seq_length in E. simpl in E. lia. Qed.

(** A filling carries the irrelevant feature k at a given position with probability 1 / (d - 2). *)
Lemma filling_is_uniform L d k r :
  (3 <= d)%nat -> (2 <= k < d)%nat -> (r < L)%nat ->
  mean (fillings L d) (fun w => same (nth r w 2%nat) k) = / INR (d - 2).
Proof.
  intros d3 Hk rL. unfold fillings.
  rewrite (mean_words_nth (seq 2 (d - 2)) (letters_not_empty d d3) 2%nat L r (fun a => same a k) rL).
  unfold mean. rewrite seq_length.
  assert (one : forall n start, (start <= k < start + n)%nat ->
    total (fun a => same a k) (seq start n) = 1).
  { induction n as [|n IH]; intros start H; [lia|]. simpl.
    destruct (Nat.eq_dec start k) as [->|ne].
    - rewrite same_self.
      rewrite (total_ext _ _ (fun _ => 0 * 0)), total_scal; [ring|].
      intros a I. apply in_seq in I. rewrite same_diff by lia. ring.
    - rewrite same_diff by easy. rewrite IH by lia. ring. }
  rewrite one by lia. field. apply not_0_INR. lia.
Qed.

(** The expected number of tokens of feature k inside a pair. *)
Lemma mean_inside L d near far i j k start n p q :
  (3 <= d)%nat -> (2 <= k < d)%nat -> (start + n < L)%nat -> (0 < n)%nat ->
  (forall w r, (start < r < start + n)%nat -> List.Forall (fun a => 2 <= a)%nat w ->
    pair_sequence near far (i, j) w r
    = if ((r =? p) || (r =? q))%nat%bool then pair_sequence near far (i, j) [] r else nth r w 2%nat) ->
  (forall r, ((r =? p) || (r =? q))%nat%bool = true ->
    (pair_sequence near far (i, j) [] r <= 1)%nat) ->
  mean (fillings L d) (fun w =>
    \sum_(r < n - 1) of_feature k (pair_sequence near far (i, j) w (S start + r)%nat))
  = irrelevant_inside n start p q / INR (d - 2).
Proof.
  intros d3 Hk fit n0 H class. rewrite mean_sum. unfold irrelevant_inside, Rdiv.
  rewrite <- sum_scal_r. apply sum_ext. intros r rn. unfold of_feature, indicator.
  destruct ((S start + r =? p) || (S start + r =? q))%nat%bool eqn:E; cbn [negb].
  - rewrite (mean_ext _ _ (fun _ => 0 * 0)); [rewrite mean_scal; ring|].
    intros w I. rewrite H by (try lia; now apply (fillings_irrelevant L d)).
    rewrite E, same_diff; [ring|]. specialize (class _ E). lia.
  - rewrite (mean_ext _ _ (fun w => same (nth (S start + r) w 2%nat) k)).
    + rewrite filling_is_uniform by (try easy; lia). ring.
    + intros w I. rewrite H by (try lia; now apply (fillings_irrelevant L d)). now rewrite E.
Qed.

(** Locality, irrelevant features: for any readout the step on feature k is
    -(a_+ - a_-) / (8 L (d - 2)) times the mean over placements of [inside_excess]. *)
Theorem locality_irrelevant_step L d near far a k :
  (3 <= d)%nat -> (2 <= k < d)%nat -> (0 < near < far)%nat -> placements L near far <> [] ->
  gate_step L a (locality_population L d near far) k
  = - ((a 0%nat - a 1%nat) / (8 * INR L * INR (d - 2)))
    * mean (placements L near far) (inside_excess near far).
Proof.
  intros d3 Hk order ne.
  assert (L0 : (0 < L)%nat).
  { destruct (placements L near far) as [|[i j] rest] eqn:P; [easy|].
    destruct (placements_spec L near far i j) as [H _]; [rewrite P; now left | lia]. }
  assert (0 < INR L) by now apply lt_0_INR.
  assert (0 < INR (d - 2)) by (apply lt_0_INR; lia).
  rewrite irrelevant_step by (try easy; lia).
  unfold locality_population.
  rewrite mean_grouped by (try easy; apply words_not_empty, letters_not_empty; lia).
  rewrite (mean_ext (placements L near far) _ (fun p => / (2 * INR (d - 2)) * inside_excess near far p)).
  - rewrite mean_scal. field. lra.
  - intros [i j] I. destruct (placements_spec L near far i j I) as [iL [jL A]].
    rewrite mean_minus.
    assert (near_pair : mean (fillings L d)
        (fun w => between 0 (of_feature k) (pair_sequence near far (i, j) w) L)
      = (1 / 2) ^ S near * (irrelevant_inside near i j (j + far) / INR (d - 2))).
    { rewrite (mean_ext _ _ (fun w => (1 / 2) ^ S near * \sum_(r < near - 1)
        of_feature k (pair_sequence near far (i, j) w (S i + r)%nat))).
      - rewrite mean_scal. f_equal. apply mean_inside; try easy; try lia.
        + intros w r Hr F. unfold pair_sequence.
          replace ((r =? i) || (r =? i + near))%nat%bool with false by lia.
          now destruct ((r =? j) || (r =? j + far))%nat%bool.
        + intros r Hr. unfold pair_sequence. destruct ((r =? i) || _)%bool; [lia|]. now rewrite Hr.
      - intros w Iw. apply between_one_pair; [lia | easy|]. intros s _.
        apply pair_feature. now apply (fillings_irrelevant L d). }
    assert (far_pair : mean (fillings L d)
        (fun w => between 1 (of_feature k) (pair_sequence near far (i, j) w) L)
      = (1 / 2) ^ S far * (irrelevant_inside far j i (i + near) / INR (d - 2))).
    { rewrite (mean_ext _ _ (fun w => (1 / 2) ^ S far * \sum_(r < far - 1)
        of_feature k (pair_sequence near far (i, j) w (S j + r)%nat))).
      - rewrite mean_scal. f_equal. apply mean_inside; try easy; try lia.
        + intros w r Hr F. unfold pair_sequence.
          destruct ((r =? i) || (r =? i + near))%nat%bool; [easy|].
          now replace ((r =? j) || (r =? j + far))%nat%bool with false by lia.
        + intros r Hr. unfold pair_sequence. rewrite Hr. lia.
      - intros w Iw. apply between_one_pair; [lia | easy|]. intros s _.
        apply pair_feature_one; [now apply (fillings_irrelevant L d) | easy]. }
    rewrite near_pair, far_pair. unfold inside_excess. simpl pow. field. lra.
Qed.
