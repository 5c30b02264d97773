(** Locality: the first step on the features of the classes and of the readout
    (docs/dynamics.md, "First step, locality"). *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means GatedModel GatePopulation LocalityStep PairExcess.
Import ListNotations.
Open Scope R_scope.

(** ** One sequence *)

Lemma sum_two_positions L i n :
  (0 < n)%nat -> (i + n < L)%nat ->
  \sum_(s < L) indicator ((s =? i) || (s =? i + n))%nat%bool = 2.
Proof.
  intros n0 fit.
  rewrite (sum_ext _ _ (fun s => indicator (s =? i)%nat + indicator (s =? i + n)%nat)).
  - rewrite sum_plus, !sum_indicator_eq, !indicator_true by (apply Nat.ltb_lt; lia). ring.
  - intros s _. unfold indicator.
    destruct (Nat.eqb_spec s i), (Nat.eqb_spec s (i + n)); try lia; simpl; ring.
Qed.

(** Two tokens of feature c, n positions apart. *)
Definition one_pair (L i n c : nat) (X : sequence) : Prop :=
  forall s, (s < L)%nat -> same (X s) c = indicator ((s =? i) || (s =? i + n))%nat%bool.

Lemma number_one_pair L i n c X :
  (0 < n)%nat -> (i + n < L)%nat -> one_pair L i n c X -> number c X L = 2.
Proof.
  intros n0 fit H. unfold number. rewrite (sum_ext _ _ _ H). now apply sum_two_positions.
Qed.

(** Each of the two is half kept where it stands, and the first is still there at the second. *)
Lemma readout_slope_one_pair L i n c X :
  (0 < n)%nat -> (i + n < L)%nat -> one_pair L i n c X ->
  readout_slope L X c = (1 + (1 / 2) ^ S n) / INR L.
Proof.
  intros n0 fit H. unfold readout_slope. f_equal.
  rewrite (sum_ext L _ (fun l => / 2 * same (X l) c
    + \sum_(s < l) (same (X s) c * same (X l) c * ((1 / 2) ^ S (l - s) * 1)))).
  - rewrite sum_plus, sum_scal. change (\sum_(k < L) same (X k) c) with (number c X L).
    rewrite (number_one_pair L i n c X) by easy.
    enough (P : \sum_(l < L) \sum_(s < l)
        (same (X s) c * same (X l) c * ((1 / 2) ^ S (l - s) * 1)) = (1 / 2) ^ S n)
      by (rewrite P; field).
    rewrite (sum_single L _ (i + n)%nat fit).
    + rewrite (sum_single (i + n) _ i) by
        (try lia; intros s sl ne; rewrite !H by lia; unfold indicator;
         replace ((s =? i) || (s =? i + n))%nat%bool with false by lia; ring).
      rewrite !H by lia. unfold indicator.
      replace ((i =? i) || (i =? i + n))%nat%bool with true by lia.
      replace ((i + n =? i) || (i + n =? i + n))%nat%bool with true by lia.
      replace (i + n - i)%nat with n by lia. ring.
    + intros l lL ne. apply sum_zero. intros s sl. rewrite !H by lia. unfold indicator.
      destruct ((s =? i) || (s =? i + n))%nat%bool eqn:Es; [|ring].
      destruct ((l =? i) || (l =? i + n))%nat%bool eqn:El; [lia | ring].
  - intros l _. cbn [sum]. rewrite same_self, Nat.sub_diag, pow_1.
    destruct (same_cases (X l) c) as [->|[E ->]].
    + rewrite (sum_zero l (fun s => same (X s) c * 0 * ((1 / 2) ^ S (l - s) * 1)))
        by (intros; ring). ring.
    + rewrite E, (sum_ext l (fun s => same (X s) c * (1 / 2) ^ S (l - s))
        (fun s => same (X s) c * 1 * ((1 / 2) ^ S (l - s) * 1))) by (intros; ring). field.
Qed.

Section Sequence.

Variables (L near far i j : nat) (w : list nat).
Hypotheses (irrelevant : List.Forall (fun a => 2 <= a)%nat w).
Hypotheses (order : (0 < near < far)%nat) (A : apart near far (i, j) = true).

Let X : sequence := pair_sequence near far (i, j) w.

Lemma near_pair_holds : one_pair L i near 0 X.
Proof. intros s _. now apply pair_feature. Qed.

Lemma far_pair_holds : one_pair L j far 1 X.
Proof. intros s _. now apply pair_feature_one. Qed.

(** Class tokens strictly inside a pair are those of the other pair. *)
Lemma class_tokens_in_near :
  \sum_(r < near - 1) of_a_class (X (S i + r)%nat) = far_in_near near far i j.
Proof.
  unfold far_in_near. rewrite <- !sum_indicator_inside, <- sum_plus. apply sum_ext. intros r rn.
  unfold of_a_class, X. rewrite (proj2 (pair_feature near far i j w (S i + r) irrelevant)).
  rewrite (pair_feature_one near far i j w (S i + r) irrelevant A). unfold indicator.
  replace ((S i + r =? i) || (S i + r =? i + near))%nat%bool with false by lia.
  destruct (Nat.eqb_spec (S i + r) j), (Nat.eqb_spec (S i + r) (j + far)); try lia; simpl; ring.
Qed.

Lemma class_tokens_in_far :
  \sum_(r < far - 1) of_a_class (X (S j + r)%nat) = near_in_far near far i j.
Proof.
  unfold near_in_far. rewrite <- !sum_indicator_inside, <- sum_plus. apply sum_ext. intros r rn.
  unfold of_a_class, X. rewrite (proj2 (pair_feature near far i j w (S j + r) irrelevant)).
  rewrite (pair_feature_one near far i j w (S j + r) irrelevant A). unfold indicator.
  replace ((S j + r =? j) || (S j + r =? j + far))%nat%bool with false by lia.
  destruct (Nat.eqb_spec (S j + r) i), (Nat.eqb_spec (S j + r) (i + near)); try lia; simpl; ring.
Qed.

End Sequence.

(** ** The steps *)

(** 2^{-far} times the near tokens inside the far pair, less 2^{-near} times the far tokens inside
    the near pair. *)
Definition crossing_excess (near far : nat) (placement : nat * nat) : R :=
  let (i, j) := placement in
  (1 / 2) ^ far * near_in_far near far i j - (1 / 2) ^ near * far_in_near near far i j.

Section Steps.

Variables (L d near far : nat).
Hypotheses (d3 : (3 <= d)%nat) (order : (0 < near < far)%nat).
Hypothesis (ne : placements L near far <> []).

Lemma tokens_positive : 0 < INR L.
Proof.
  apply lt_0_INR. destruct (placements L near far) as [|[i j] rest] eqn:P; [easy|].
  destruct (placements_spec L near far i j) as [H _]; [rewrite P; now left | lia].
Qed.

(** What depends on the placement alone is averaged over placements alone. *)
Lemma mean_by_placement (f : sequence -> R) (g : nat * nat -> R) :
  (forall i j w, In (i, j) (placements L near far) -> In w (fillings L d) ->
     f (pair_sequence near far (i, j) w) = g (i, j)) ->
  mean (locality_population L d near far) f = mean (placements L near far) g.
Proof.
  intros H. assert (some : fillings L d <> []) by (apply words_not_empty, letters_not_empty; lia).
  unfold locality_population. rewrite mean_grouped by easy. apply mean_ext. intros [i j] I.
  rewrite (mean_ext _ _ (fun _ => g (i, j))); [now apply mean_const | auto].
Qed.

(** Locality, class features, for a readout that is A on o_+, -A on o_- and 0 elsewhere: the step on
    both is A / (8 L) times the mean over placements of [crossing_excess]. It is zero but for pairs
    that cross or lie inside each other. *)
Theorem locality_class_step A a k :
  (k <= 1)%nat -> (forall x, a x = A * (same x 0 - same x 1)) ->
  gate_step L a (locality_population L d near far) k
  = A / (8 * INR L) * mean (placements L near far) (crossing_excess near far).
Proof.
  intros k1 Ha. pose proof tokens_positive as L0.
  rewrite (class_step L A) by (try easy; now apply INR_lt).
  rewrite (mean_by_placement _ (fun p => / 4 * crossing_excess near far p)).
  - rewrite mean_scal. field. lra.
  - intros i j w I Iw. destruct (placements_spec L near far i j I) as [iL [jL apart_ij]].
    assert (F := fillings_irrelevant L d w Iw).
    pose proof (near_pair_holds L near far i j w F) as N.
    pose proof (far_pair_holds L near far i j w F apart_ij) as P.
    rewrite (number_one_pair L i near) by (try easy; lia).
    rewrite (number_one_pair L j far) by (try easy; lia).
    rewrite (between_one_pair 0 _ _ L i near) by (try easy; lia).
    rewrite (between_one_pair 1 _ _ L j far) by (try easy; lia).
    rewrite class_tokens_in_near, class_tokens_in_far by easy.
    unfold crossing_excess. simpl pow. field.
Qed.

(** Where the near pair has no room inside, class features move up or not at all. *)
Theorem locality_class_step_near_1 A a k :
  near = 1%nat -> 0 <= A -> (k <= 1)%nat -> (forall x, a x = A * (same x 0 - same x 1)) ->
  0 <= gate_step L a (locality_population L d near far) k.
Proof.
  intros n1 A0 k1 Ha. rewrite (locality_class_step A) by easy. pose proof tokens_positive as L0.
  apply Rmult_le_pos.
  - apply Rmult_le_pos; [easy|]. apply Rlt_le, Rinv_0_lt_compat. lra.
  - apply mean_nonneg. intros [i j] _. unfold crossing_excess, far_in_near.
    rewrite !(proj2 (inside_false i near _)) by lia. cbn [indicator].
    pose proof (half_pow_pos far). pose proof (pairs_cross near far i j order) as [N _].
    enough (0 <= (1 / 2) ^ far * near_in_far near far i j) by lra.
    apply Rmult_le_pos; lra.
Qed.

(** Locality, the first step of the readout: a_+ moves up by (2^{-near} - 2^{-far}) / (4 L) and a_-
    down by as much, whatever the dimension and wherever the pairs stand. *)
Theorem locality_readout_step :
  readout_step L (locality_population L d near far) 0
  = ((1 / 2) ^ near - (1 / 2) ^ far) / (4 * INR L)
  /\ 0 < readout_step L (locality_population L d near far) 0.
Proof.
  pose proof tokens_positive as L0.
  assert (value : readout_step L (locality_population L d near far) 0
    = ((1 / 2) ^ near - (1 / 2) ^ far) / (4 * INR L)).
  { unfold readout_step.
    rewrite (mean_by_placement _ (fun _ => ((1 / 2) ^ near - (1 / 2) ^ far) / (4 * INR L))).
    - now apply mean_const.
    - intros i j w I Iw. destruct (placements_spec L near far i j I) as [iL [jL apart_ij]].
      assert (F := fillings_irrelevant L d w Iw).
      rewrite exchanged_readout_slope. cbn [exchange].
      rewrite (readout_slope_one_pair L i near 0)
        by (try easy; try lia; now apply near_pair_holds).
      rewrite (readout_slope_one_pair L j far 1)
        by (try easy; try lia; now apply far_pair_holds).
      simpl pow. field. lra. }
  split; [easy|]. rewrite value.
  apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat; lra].
  assert (P : (1 / 2) ^ far < (1 / 2) ^ near).
  { replace far with (near + (far - near))%nat by lia. rewrite pow_add.
    assert (Q : (1 / 2) ^ (far - near) < 1)
      by (apply pow_lt_1_compat; [lra | lia]).
    pose proof (half_pow_pos near). nra. }
  lra.
Qed.

End Steps.
