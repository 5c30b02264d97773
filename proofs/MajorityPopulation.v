(** Majority voting: the population of the code is one of random positions. *)

From Coq Require Import Reals Lra Lia List Permutation FinFun.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation RandomPositions.
Import ListNotations.
Open Scope R_scope.

Definition as_sequence (w : list nat) (s : nat) : nat := nth s w 0%nat.

Definition has_numbers (own other : nat) (w : list nat) : bool :=
  ((count_occ Nat.eq_dec w 0 =? own) && (count_occ Nat.eq_dec w 1 =? other))%nat%bool.

(** Every sequence of L features out of d with [own] times o_+ and [other] times o_-. *)
Definition majority_population (L d own other : nat) : list sequence :=
  map as_sequence (filter (has_numbers own other) (words (seq 0 d) L)).

Definition exchange_positions (p q : nat) (w : list nat) : list nat :=
  map (fun r => nth (transpose p q r) w 0%nat) (seq 0 (length w)).

Lemma number_is_count c w : number c (as_sequence w) (length w) = INR (count_occ Nat.eq_dec w c).
Proof.
  unfold number, as_sequence. induction w as [|a w IH]; [easy|].
  cbn [length]. rewrite sum_first. simpl nth. rewrite IH. simpl count_occ.
  destruct (Nat.eq_dec a c) as [->|ne].
  - rewrite same_self, S_INR. ring.
  - rewrite same_diff by easy. ring.
Qed.

Lemma nth_map_seq {A} (f : nat -> A) n r default :
  (r < n)%nat -> nth r (map f (seq 0 n)) default = f r.
Proof.
  intros rn. rewrite (nth_indep _ default (f 0%nat)) by (rewrite map_length, seq_length; easy).
  rewrite map_nth, seq_nth by easy. easy.
Qed.

Lemma exchange_positions_nth p q w r :
  (r < length w)%nat -> nth r (exchange_positions p q w) 0%nat = nth (transpose p q r) w 0%nat.
Proof. intros rw. unfold exchange_positions. now rewrite nth_map_seq. Qed.

Lemma exchange_positions_length p q w : length (exchange_positions p q w) = length w.
Proof. unfold exchange_positions. now rewrite map_length, seq_length. Qed.

Lemma exchange_positions_involutive p q w :
  (p < length w)%nat -> (q < length w)%nat ->
  exchange_positions p q (exchange_positions p q w) = w.
Proof.
  intros pw qw. apply (nth_ext _ _ 0%nat 0%nat); [now rewrite !exchange_positions_length|].
  intros r rw. rewrite !exchange_positions_length in rw.
  rewrite exchange_positions_nth by now rewrite exchange_positions_length.
  rewrite exchange_positions_nth by now apply transpose_below.
  now rewrite transpose_involutive.
Qed.

Lemma exchange_positions_permutes p q w :
  (p < length w)%nat -> (q < length w)%nat -> Permutation w (exchange_positions p q w).
Proof.
  intros pw qw. apply (Permutation_nth _ _ 0%nat). split; [now rewrite exchange_positions_length|].
  exists (transpose p q). split; [|split].
  - intros r rw. now apply transpose_below.
  - intros r r' _ _. apply transpose_injective.
  - intros r rw. now apply exchange_positions_nth.
Qed.

Lemma total_permutation {A} (f : A -> R) l l' : Permutation l l' -> total f l = total f l'.
Proof. induction 1; simpl; lra. Qed.

Lemma population_words L d own other w :
  In w (filter (has_numbers own other) (words (seq 0 d) L)) ->
  length w = L /\ count_occ Nat.eq_dec w 0%nat = own /\ count_occ Nat.eq_dec w 1%nat = other
  /\ List.Forall (fun a => In a (seq 0 d)) w.
Proof.
  intros I. apply filter_In in I. destruct I as [I N]. apply words_spec in I.
  unfold has_numbers in N. apply andb_prop in N. destruct N as [N0 N1].
  apply Nat.eqb_eq in N0, N1. easy.
Qed.

Lemma exchange_stays L d own other p q w :
  (p < L)%nat -> (q < L)%nat ->
  In w (filter (has_numbers own other) (words (seq 0 d) L)) ->
  In (exchange_positions p q w) (filter (has_numbers own other) (words (seq 0 d) L)).
Proof.
  intros pL qL I. destruct (population_words L d own other w I) as [Lw [N0 [N1 F]]].
  assert (P : Permutation w (exchange_positions p q w))
    by (apply exchange_positions_permutes; now rewrite Lw).
  apply filter_In. split.
  - apply words_spec. rewrite exchange_positions_length. split; [easy|].
    now apply (Permutation_Forall P).
  - unfold has_numbers.
    rewrite <- (proj1 (Permutation_count_occ Nat.eq_dec w _) P 0%nat).
    rewrite <- (proj1 (Permutation_count_occ Nat.eq_dec w _) P 1%nat).
    now rewrite N0, N1, !Nat.eqb_refl.
Qed.

(** The theorems on majority voting hold for the population of the code. *)
Theorem majority_population_is_majority L d own other :
  (0 < d)%nat -> majority_population L d own other <> [] ->
  majority L own other (majority_population L d own other).
Proof.
  intros d0 ne. set (W := filter (has_numbers own other) (words (seq 0 d) L)).
  assert (letters : seq 0 d <> []) by (destruct d; [lia | easy]).
  split; [easy | | |].
  - intros X I. apply in_map_iff in I. destruct I as [w [<- I]].
    apply population_words in I. destruct I as [<- [<- _]]. apply number_is_count.
  - intros X I. apply in_map_iff in I. destruct I as [w [<- I]].
    apply population_words in I. destruct I as [<- [_ [<- _]]]. apply number_is_count.
  - intros f g h s j l p q sL jL lL pL qL. unfold majority_population. fold W.
    rewrite !mean_map.
    assert (P : Permutation (map (exchange_positions p q) W) W).
    { assert (ND : NoDup W) by apply NoDup_filter, words_NoDup, seq_NoDup.
      apply NoDup_Permutation; [| easy |].
      - apply (NoDup_map_inv (exchange_positions p q)). rewrite map_map.
        rewrite (map_ext_in _ (fun w => w)); [now rewrite map_id|].
        intros w I. destruct (population_words L d own other w I) as [Lw _].
        apply exchange_positions_involutive; now rewrite Lw.
      - intros w. split; intros I.
        + apply in_map_iff in I. destruct I as [v [<- I]]. now apply exchange_stays.
        + apply in_map_iff. exists (exchange_positions p q w).
          destruct (population_words L d own other w I) as [Lw _].
          split; [apply exchange_positions_involutive; now rewrite Lw | now apply exchange_stays]. }
    unfold mean. f_equal. rewrite <- (total_permutation _ _ _ P), total_map.
    apply total_ext. intros w I. destruct (population_words L d own other w I) as [Lw _].
    unfold as_sequence. rewrite !exchange_positions_nth by (rewrite Lw; easy). easy.
Qed.

(** There is such a sequence whenever the tokens fit and, where some are left over, an irrelevant
    feature exists. *)
Theorem majority_population_not_empty L d own other :
  (2 <= d)%nat -> (own + other <= L)%nat -> (own + other < L -> 3 <= d)%nat ->
  majority_population L d own other <> [].
Proof.
  intros d2 fit room E.
  set (w := repeat 0%nat own ++ repeat 1%nat other ++ repeat 2%nat (L - own - other)).
  assert (I : In w (filter (has_numbers own other) (words (seq 0 d) L))).
  { apply filter_In. split.
    - apply words_spec. unfold w. rewrite !app_length, !repeat_length. split; [lia|].
      apply Forall_forall. intros a I. apply in_seq.
      apply in_app_or in I. destruct I as [I|I]; [apply repeat_spec in I; lia|].
      apply in_app_or in I. destruct I as [I|I]; [apply repeat_spec in I; lia|].
      assert (0 < L - own - other)%nat.
      { destruct (L - own - other)%nat; [easy | lia]. }
      apply repeat_spec in I. lia.
    - unfold has_numbers, w. rewrite !count_occ_app.
      assert (hit : forall x n, count_occ Nat.eq_dec (repeat x n) x = n)
        by (intros; now apply count_occ_repeat_eq).
      rewrite !hit, !count_occ_repeat_neq by easy. rewrite !Nat.add_0_r, !Nat.add_0_l.
      now rewrite !Nat.eqb_refl. }
  apply (in_map as_sequence) in I. unfold majority_population in E. now rewrite E in I.
Qed.
