(** From covers to complexity: one net, and chaining on nested nets
    (docs/bounds.md, Proposition 2), down to the sum that the code computes. *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Vectors Means Rademacher Massart.
Import ListNotations.
Open Scope R_scope.

Fixpoint minus_list (x y : list R) : list R :=
  match x, y with
  | a :: x', b :: y' => (a - b) :: minus_list x' y'
  | _, _ => []
  end.

(** A net of radius eps: a finite list of centres inside the class, such that every member is
    within eps of a centre in the norm on the sample. *)
Record net (m : nat) (F : list R -> Prop) (eps : R) (centres : list (list R)) : Prop := {
  net_inside : forall x, In x centres -> F x;
  net_covers : forall x, F x -> exists c, In c centres /\ sample_norm m (minus_list x c) <= eps
}.

(** ** Pairings *)

Lemma pairing_minus s x y :
  length x = length y -> pairing s (minus_list x y) = pairing s x - pairing s y.
Proof.
  revert x y. induction s as [|a s IH]; intros [|b x] [|c y] L; simpl; try lra; try easy.
  rewrite IH by (simpl in L; lia). ring.
Qed.

Lemma minus_list_length x y : length x = length y -> length (minus_list x y) = length x.
Proof.
  revert y. induction x as [|a x IH]; intros [|b y] L; simpl; try easy.
  f_equal. apply IH. simpl in L. lia.
Qed.

Lemma pairing_square s x :
  pairing s x ^ 2 <= squares s * squares x.
Proof.
  revert x. induction s as [|a s IH]; intros [|b x]; cbn [pairing squares].
  - lra.
  - rewrite pow_i by lia. lra.
  - rewrite pow_i by lia. pose proof (squares_nonneg s). pose proof (pow2_ge_0 a). nra.
  - specialize (IH x). set (p := pairing s x) in *.
    set (S := squares s) in *. set (X := squares x) in *.
    assert (S0 : 0 <= S) by apply squares_nonneg. assert (X0 : 0 <= X) by apply squares_nonneg.
    enough (2 * (a * b) * p <= a ^ 2 * X + b ^ 2 * S).
    { replace ((a * b + p) ^ 2) with (a ^ 2 * b ^ 2 + 2 * (a * b) * p + p ^ 2) by ring.
      replace ((a ^ 2 + S) * (b ^ 2 + X)) with (a ^ 2 * b ^ 2 + (a ^ 2 * X + b ^ 2 * S) + S * X)
        by ring. lra. }
    apply Rsqr_incr_0_var; [|apply Rplus_le_le_0_compat; apply Rmult_le_pos; try easy;
      apply pow2_ge_0].
    rewrite !Rsqr_pow2. replace ((2 * (a * b) * p) ^ 2) with (4 * (a ^ 2 * b ^ 2) * p ^ 2) by ring.
    apply Rle_trans with (4 * (a ^ 2 * b ^ 2) * (S * X)).
    + apply Rmult_le_compat_l; [|easy]. pose proof (pow2_ge_0 (a * b)).
      rewrite Rpow_mult_distr in H. lra.
    + pose proof (pow2_ge_0 (a ^ 2 * X - b ^ 2 * S)). nra.
Qed.

Lemma squares_of_signs m s : In s (signs m) -> squares s = INR m.
Proof.
  intros I. apply signs_enumerated in I. destruct I as [<- H].
  induction H as [|a s one H IH]; [easy|]. cbn [squares length]. rewrite S_INR, IH.
  destruct one as [->| ->]; ring.
Qed.

(** The mean of sigma_i x_i is at most the norm of x. *)
Lemma pairing_le_norm m s x :
  (0 < m)%nat -> In s (signs m) -> pairing s x / INR m <= sample_norm m x.
Proof.
  intros m0 I. assert (M : 0 < INR m) by now apply lt_0_INR.
  eapply Rle_trans; [apply Rle_abs|].
  apply Rsqr_incr_0_var; [|apply sample_norm_nonneg].
  rewrite !Rsqr_pow2, pow2_abs. unfold sample_norm.
  rewrite pow2_sqrt by (apply Rdiv_le_0_compat; [apply squares_nonneg | easy]).
  pose proof (pairing_square s x) as P. rewrite (squares_of_signs m s I) in P.
  replace ((pairing s x / INR m) ^ 2) with (pairing s x ^ 2 / INR m ^ 2) by (field; lra).
  apply Rle_div_l; [now apply pow_lt|].
  replace (squares x / INR m * INR m ^ 2) with (INR m * squares x) by (field; lra). easy.
Qed.

(** ** Classes of bounded norm *)

Record normed_class (m : nat) (b : R) (F : list R -> Prop) : Prop := {
  normed_length : forall x, F x -> length x = m;
  normed_bound : forall x, F x -> sample_norm m x <= b;
  normed_inhabited : exists x, F x
}.

Section Chain.

Variables (m : nat) (b : R) (F : list R -> Prop).
Hypotheses (m0 : (0 < m)%nat) (HF : normed_class m b F).

Lemma class_norm_nonneg : 0 <= b.
Proof.
  destruct (normed_inhabited m b F HF) as [x Fx].
  eapply Rle_trans; [apply sample_norm_nonneg | now apply (normed_bound m b F HF x)].
Qed.

Lemma class_pairing_le s x : In s (signs m) -> F x -> pairing s x / INR m <= b.
Proof.
  intros I Fx. eapply Rle_trans; [now apply pairing_le_norm | now apply (normed_bound m b F HF)].
Qed.

Lemma net_inhabited eps centres : net m F eps centres -> centres <> [].
Proof.
  intros H E. destruct (normed_inhabited m b F HF) as [x Fx].
  destruct (net_covers m F eps centres H x Fx) as [c [I _]]. now rewrite E in I.
Qed.

(** Rad(F) <= b, Massart's bound with no net at all. *)
Lemma complexity_le_bound : rademacher m F <= b.
Proof.
  apply mean_le_const; [apply signs_not_empty|]. intros s I. apply sup_least.
  - destruct (normed_inhabited m b F HF) as [x Fx]. exists (pairing s x / INR m), x. now split.
  - intros y [x [Fx ->]]. now apply class_pairing_le.
Qed.

Lemma finite_pairing_le s eps centres x :
  net m F eps centres -> In s (signs m) -> In x centres ->
  pairing s x / INR m <= sup (fun y => exists x, finite_class centres x /\ y = pairing s x / INR m).
Proof.
  intros H I C. apply (sup_upper _ b); [|now exists x].
  intros y [z [Iz ->]]. apply class_pairing_le; [easy|]. now apply (net_inside m F eps centres H).
Qed.

(** Replacing members by their nearest centres costs the radius. *)
Lemma complexity_of_net eps centres :
  net m F eps centres -> rademacher m F <= eps + rademacher m (finite_class centres).
Proof.
  intros H. unfold rademacher. rewrite <- (mean_const (signs m) eps) by apply signs_not_empty.
  rewrite <- mean_plus. apply mean_le. intros s I. apply sup_least.
  - destruct (normed_inhabited m b F HF) as [x Fx]. exists (pairing s x / INR m), x. now split.
  - intros y [x [Fx ->]]. destruct (net_covers m F eps centres H x Fx) as [c [C near]].
    replace (pairing s x / INR m) with (pairing s (minus_list x c) / INR m + pairing s c / INR m).
    + apply Rplus_le_compat; [|now apply (finite_pairing_le s eps centres)].
      eapply Rle_trans; [now apply pairing_le_norm | easy].
    + assert (0 < INR m) by now apply lt_0_INR. rewrite pairing_minus; [field; lra|].
      rewrite !(normed_length m b F HF); [easy | now apply (net_inside m F eps centres H) | easy].
Qed.

(** The first centre of the list within eps of x. *)
Definition nearest (eps : R) (centres : list (list R)) (x : list R) : list R :=
  match find (fun c => if Rle_dec (sample_norm m (minus_list x c)) eps then true else false)
             centres with
  | Some c => c
  | None => x
  end.

Lemma nearest_spec eps centres x :
  net m F eps centres -> F x ->
  In (nearest eps centres x) centres /\ sample_norm m (minus_list x (nearest eps centres x)) <= eps.
Proof.
  intros H Fx. unfold nearest.
  destruct (find _ centres) as [c|] eqn:E.
  - apply find_some in E. destruct E as [I Hc]. split; [easy|].
    now destruct (Rle_dec (sample_norm m (minus_list x c)) eps).
  - destruct (net_covers m F eps centres H x Fx) as [c [C near]].
    pose proof (find_none _ _ E c C) as Hc. simpl in Hc.
    now destruct (Rle_dec (sample_norm m (minus_list x c)) eps).
Qed.

(** One level: the finer net costs as many differences as it has centres, each no longer than
    the coarser radius. *)
Lemma complexity_of_finer_net coarse eps_coarse fine eps_fine :
  net m F eps_coarse coarse -> net m F eps_fine fine ->
  rademacher m (finite_class fine)
  <= rademacher m (finite_class coarse)
     + eps_coarse * sqrt (2 * ln (INR (length fine)) / INR m).
Proof.
  intros Hc Hf. set (near := nearest eps_coarse coarse).
  set (differences := map (fun x => minus_list x (near x)) fine).
  assert (lengths : forall x, F x -> length x = length (near x)).
  { intros x Fx. rewrite !(normed_length m b F HF); [easy | | easy].
    apply (net_inside m F _ _ Hc). now apply nearest_spec. }
  assert (short : forall d, In d differences -> length d = m /\ sample_norm m d <= eps_coarse).
  { intros d I. apply in_map_iff in I. destruct I as [x [<- Ix]].
    pose proof (net_inside m F _ _ Hf x Ix) as Fx. split.
    - rewrite minus_list_length by now apply lengths. now apply (normed_length m b F HF).
    - now apply nearest_spec. }
  assert (ne : fine <> []) by now apply (net_inhabited eps_fine).
  assert (eps0 : 0 <= eps_coarse).
  { destruct fine as [|x xs]; [easy|]. eapply Rle_trans; [apply sample_norm_nonneg|].
    apply (short (minus_list x (near x))). now left. }
  apply Rle_trans with (rademacher m (finite_class coarse) + rademacher m (finite_class differences)).
  - unfold rademacher. rewrite <- mean_plus. apply mean_le. intros s I. apply sup_least.
    + destruct fine as [|x xs]; [easy|]. exists (pairing s x / INR m), x. split; [now left | easy].
    + intros y [x [Ix ->]]. pose proof (net_inside m F _ _ Hf x Ix) as Fx.
      replace (pairing s x / INR m)
        with (pairing s (near x) / INR m + pairing s (minus_list x (near x)) / INR m).
      * apply Rplus_le_compat.
        -- apply (finite_pairing_le s eps_coarse coarse); auto. now apply nearest_spec.
        -- apply (sup_upper _ eps_coarse).
           ++ intros z [d [Id ->]]. eapply Rle_trans; [now apply pairing_le_norm|].
              now apply short.
           ++ exists (minus_list x (near x)). split; [|easy]. now apply (in_map (fun x => minus_list x (near x))).
      * assert (0 < INR m) by now apply lt_0_INR.
        rewrite pairing_minus by now apply lengths. field. lra.
  - apply Rplus_le_compat_l. unfold differences. rewrite <- (map_length (fun x => minus_list x (near x))).
    apply massart; auto.
    + intros E. apply ne. now apply map_eq_nil in E.
    + intros x I. now apply short.
    + intros x I. now apply short.
Qed.

(** A single net has Massart's bound. *)
Lemma complexity_of_first_net eps centres :
  net m F eps centres ->
  rademacher m (finite_class centres) <= b * sqrt (2 * ln (INR (length centres)) / INR m).
Proof.
  intros H. apply massart; auto.
  - now apply (net_inhabited eps).
  - intros x I. apply (normed_length m b F HF). now apply (net_inside m F eps centres H).
  - intros x I. apply (normed_bound m b F HF). now apply (net_inside m F eps centres H).
  - apply class_norm_nonneg.
Qed.

(** One step: Rad(F) <= eps + b sqrt(2 log N(eps) / m). *)
Theorem one_net_bound eps centres :
  net m F eps centres ->
  rademacher m F <= eps + b * sqrt (2 * ln (INR (length centres)) / INR m).
Proof.
  intros H. eapply Rle_trans; [exact (complexity_of_net eps centres H)|].
  apply Rplus_le_compat_l. exact (complexity_of_first_net eps centres H).
Qed.

(** The chaining sum eps_n + (sum over 1 <= j <= n of eps_{j-1} sqrt(2 log N_j / m)). *)
Definition chaining_sum (log_count : nat -> R) (eps : nat -> R) (n : nat) : R :=
  eps n + \sum_(j < n) (eps j * sqrt (2 * log_count (S j) / INR m)).

(** Proposition 2. Let N_j count the centres of a net of radius eps_j with centres in the class,
    for j = 1, ..., n, and eps_0 = b. Then
    Rad <= eps_n + (sum over j >= 1 of eps_{j-1} sqrt(2 log N_j / m)). *)
Theorem proposition_2 (eps : nat -> R) (nets : nat -> list (list R)) n :
  eps O = b ->
  (forall j, (1 <= j <= n)%nat -> net m F (eps j) (nets j)) ->
  rademacher m F <= chaining_sum (fun j => ln (INR (length (nets j)))) eps n.
Proof.
  intros e0 H. unfold chaining_sum.
  destruct n as [|n]; [simpl; rewrite Rplus_0_r, e0; apply complexity_le_bound|].
  apply Rle_trans with (eps (S n) + rademacher m (finite_class (nets (S n))));
    [apply complexity_of_net, H; lia|].
  apply Rplus_le_compat_l. induction n as [|n IH].
  - simpl. rewrite Rplus_0_l, e0. apply (complexity_of_first_net (eps 1%nat)). apply H. lia.
  - cbn [sum]. eapply Rle_trans;
      [apply (complexity_of_finer_net (nets (S n)) (eps (S n)) _ (eps (S (S n)))); apply H; lia|].
    apply Rplus_le_compat_r. apply IH. intros j Hj. apply H. lia.
Qed.

End Chain.

(** ** What the code computes

    [nested_chaining] picks the radii from a grid by dynamic programming, in units of b. A level is
    a pair of a radius and the log covering number there. [reached] is the least sum of a chain that
    ends at a radius; a new level tries every coarser one before it. *)

Fixpoint cheapest (before : list (R * R)) (deviation : R) : R :=
  match before with
  | [] => 0
  | [(radius, reached)] => reached + radius * deviation
  | (radius, reached) :: others =>
      Rmin (reached + radius * deviation) (cheapest others deviation)
  end.

Fixpoint reach (before : list (R * R)) (m : nat) (levels : list (R * R)) : list (R * R) :=
  match levels with
  | [] => before
  | (radius, count) :: finer =>
      reach ((radius, cheapest before (sqrt (2 * Rmax count 0 / INR m))) :: before) m finer
  end.

Fixpoint least_total (ends : list (R * R)) : R :=
  match ends with
  | [] => 0
  | [(radius, reached)] => reached + radius
  | (radius, reached) :: others => Rmin (reached + radius) (least_total others)
  end.

(** The first radius is 1, where no net is needed. *)
Definition nested_chaining (m : nat) (levels : list (R * R)) : R :=
  least_total (reach [(1, 0)] m levels).

Section DynamicProgramming.

Variables (m : nat) (b : R) (F : list R -> Prop).
Hypotheses (m0 : (0 < m)%nat) (HF : normed_class m b F).

(** What an entry of the table promises: either it is the start, or a net of that radius whose
    complexity is at most b times the number reached. *)
Definition promise (entry : R * R) : Prop :=
  let (radius, reached) := entry in
  (radius = 1 /\ reached = 0)
  \/ exists centres, net m F (b * radius) centres
     /\ rademacher m (finite_class centres) <= b * reached.

Lemma promise_start : promise (1, 0).
Proof. now left. Qed.

Lemma promise_next entry radius centres count :
  promise entry -> net m F (b * radius) centres -> ln (INR (length centres)) <= count ->
  rademacher m (finite_class centres)
  <= b * (snd entry + fst entry * sqrt (2 * Rmax count 0 / INR m)).
Proof.
  intros P H C. destruct entry as [coarse reached]. simpl.
  assert (M : 0 < INR m) by now apply lt_0_INR.
  pose proof (class_norm_nonneg m b F HF) as b0.
  assert (root : sqrt (2 * ln (INR (length centres)) / INR m)
                 <= sqrt (2 * Rmax count 0 / INR m)).
  { apply sqrt_le_1_alt. apply Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat|].
    pose proof (Rmax_l count 0). lra. }
  destruct P as [[-> ->]|[nearby [Hn Rn]]].
  - eapply Rle_trans; [apply (complexity_of_first_net m b F m0 HF (b * radius)); easy|].
    rewrite Rplus_0_l, Rmult_1_l. now apply Rmult_le_compat_l.
  - eapply Rle_trans; [exact (complexity_of_finer_net m b F m0 HF nearby (b * coarse) centres (b * radius) Hn H)|].
    rewrite Rmult_plus_distr_l, <- Rmult_assoc. apply Rplus_le_compat; [easy|].
    apply Rmult_le_compat_l; [|easy].
    destruct (normed_inhabited m b F HF) as [x Fx].
    destruct (net_covers m F _ _ Hn x Fx) as [c [_ near]].
    eapply Rle_trans; [apply sample_norm_nonneg | exact near].
Qed.

Lemma promise_cheapest before radius centres count :
  before <> [] -> List.Forall promise before ->
  net m F (b * radius) centres -> ln (INR (length centres)) <= count ->
  promise (radius, cheapest before (sqrt (2 * Rmax count 0 / INR m))).
Proof.
  intros ne P H C. right. exists centres. split; [easy|].
  induction P as [|[r a] before Pe P IH]; [easy|].
  pose proof (promise_next (r, a) radius centres count Pe H C) as step. simpl in step.
  destruct before as [|e before]; [easy|].
  change (cheapest ((r, a) :: e :: before) ?d) with (Rmin (a + r * d) (cheapest (e :: before) d)).
  unfold Rmin. destruct (Rle_dec _ _); [easy|]. now apply IH.
Qed.

Definition covered (level : R * R) : Prop :=
  exists centres, net m F (b * fst level) centres /\ ln (INR (length centres)) <= snd level.

Lemma promise_reach before levels :
  before <> [] -> List.Forall promise before -> List.Forall covered levels ->
  List.Forall promise (reach before m levels) /\ reach before m levels <> [].
Proof.
  intros ne P H. revert before ne P.
  induction H as [|[radius count] levels [centres [Hn C]] H IH]; intros before ne P; [easy|].
  simpl. apply IH; [easy|]. constructor; [|easy]. now apply (promise_cheapest before radius centres).
Qed.

Lemma promise_total ends :
  ends <> [] -> List.Forall promise ends -> rademacher m F <= b * least_total ends.
Proof.
  intros ne P. induction P as [|[radius reached] ends Pe P IH]; [easy|].
  assert (this : rademacher m F <= b * (reached + radius)).
  { destruct Pe as [[-> ->]|[centres [Hn Rn]]].
    - rewrite Rplus_0_l, Rmult_1_r. now apply complexity_le_bound.
    - eapply Rle_trans; [exact (complexity_of_net m b F m0 HF (b * radius) centres Hn)|]. lra. }
  destruct ends as [|e ends]; [easy|].
  change (least_total ((radius, reached) :: e :: ends))
    with (Rmin (reached + radius) (least_total (e :: ends))).
  unfold Rmin. destruct (Rle_dec _ _); [easy|]. now apply IH.
Qed.

(** Proposition 2 as computed: if at every radius b r of the grid there is a net with centres in
    the class of at most e^{log count} points, then Rad <= b [nested_chaining]. Whatever radii the
    dynamic programme picks, the value is a bound. *)
Theorem nested_chaining_bounds levels :
  List.Forall covered levels -> rademacher m F <= b * nested_chaining m levels.
Proof.
  intros H. unfold nested_chaining.
  destruct (promise_reach [(1, 0)] levels) as [P ne]; [easy | | easy |].
  - constructor; [apply promise_start | constructor].
  - now apply promise_total.
Qed.

End DynamicProgramming.

(** Covers in the largest difference of outputs are nets: the norm on the sample is no larger. *)
Theorem uniform_covers_are_nets m eps x :
  (0 < m)%nat -> length x = m -> 0 <= eps -> List.Forall (fun a => Rabs a <= eps) x ->
  sample_norm m x <= eps.
Proof.
  intros m0 L eps0 H. assert (M : 0 < INR m) by now apply lt_0_INR.
  assert (S : squares x <= INR (length x) * eps ^ 2).
  { clear - eps0 H. induction H as [|a x Ha H IH]; [simpl; lra|].
    cbn [squares length]. rewrite S_INR.
    assert (a ^ 2 <= eps ^ 2); [|lra]. rewrite <- pow2_abs. apply pow_incr.
    split; [apply Rabs_pos | easy]. }
  rewrite L in S. unfold sample_norm. rewrite <- (sqrt_pow2 eps eps0). apply sqrt_le_1_alt.
  apply (Rle_div_l _ _ (INR m)); lra.
Qed.
