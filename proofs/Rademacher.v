(** Empirical Rademacher complexity (docs/bounds.md, "From covers to Rademacher complexity").

    A class is known on a sample of m inputs by the lists of its values there: [F x] says that
    some member takes the values x_1, ..., x_m. *)

From Coq Require Import Reals Lra Lia List.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums Means.
Import ListNotations.
Open Scope R_scope.

(** All sign vectors of length m, each equally likely. *)
Definition signs (m : nat) : list (list R) := words [1; -1] m.

(** The sum of sigma_i x_i. *)
Fixpoint pairing (sigma x : list R) : R :=
  match sigma, x with
  | s :: sigma', a :: x' => s * a + pairing sigma' x'
  | _, _ => 0
  end.

(** The supremum of a set of reals that is not empty and bounded. *)
Definition sup (E : R -> Prop) : R := real (Lub_Rbar E).

(** Rad = E_sigma sup over f of (1/m) (the sum of sigma_i f(x_i)). *)
Definition rademacher (m : nat) (F : list R -> Prop) : R :=
  mean (signs m) (fun sigma => sup (fun y => exists x, F x /\ y = pairing sigma x / INR m)).

(** A class whose values on the sample are bounded by b. *)
Record bounded_class (m : nat) (b : R) (F : list R -> Prop) : Prop := {
  class_length : forall x, F x -> length x = m;
  class_bound : forall x, F x -> List.Forall (fun a => Rabs a <= b) x;
  class_inhabited : exists x, F x
}.

(** ** The supremum *)

Lemma sup_is_lub (E : R -> Prop) M :
  (exists y, E y) -> (forall y, E y -> y <= M) -> is_lub_Rbar E (sup E).
Proof.
  intros [y0 Ey0] B. unfold sup. pose proof (Lub_Rbar_correct E) as L.
  destruct L as [up least].
  assert (finite : is_finite (Lub_Rbar E)).
  { specialize (up y0 Ey0). specialize (least M B). destruct (Lub_Rbar E); easy. }
  rewrite finite. now split.
Qed.

Lemma sup_upper (E : R -> Prop) M y : (forall y, E y -> y <= M) -> E y -> y <= sup E.
Proof.
  intros B Ey. destruct (sup_is_lub E M) as [up _]; [now exists y | easy |]. now apply up.
Qed.

Lemma sup_least (E : R -> Prop) M : (exists y, E y) -> (forall y, E y -> y <= M) -> sup E <= M.
Proof. intros N B. destruct (sup_is_lub E M N B) as [_ least]. now apply (least M). Qed.

(** ** Sign vectors *)

Lemma signs_not_empty m : signs m <> [].
Proof. now apply words_not_empty. Qed.

(** [signs m] lists every vector of m signs exactly once, 2^m in all. *)
Theorem signs_enumerated m :
  (forall sigma, In sigma (signs m)
     <-> length sigma = m /\ List.Forall (fun s => s = 1 \/ s = -1) sigma)
  /\ NoDup (signs m) /\ length (signs m) = (2 ^ m)%nat.
Proof.
  split; [|split].
  - intros sigma. unfold signs. rewrite words_spec.
    assert (E : List.Forall (fun a => In a [1; -1]) sigma
                <-> List.Forall (fun s => s = 1 \/ s = -1) sigma).
    { split; apply Forall_impl; simpl; intros a; [intros [<-|[<-|[]]]; auto |].
      intros [->| ->]; auto. }
    now rewrite E.
  - apply words_NoDup. constructor; [simpl; intros [H|[]]; lra | constructor; [easy|constructor]].
  - apply words_length.
Qed.

Lemma mean_two f : mean [1; -1] f = (f 1 + f (-1)) / 2.
Proof. unfold mean. simpl. lra. Qed.

(** The first sign is 1 or -1 with equal chances, independently of the others. *)
Lemma mean_signs m f :
  mean (signs (S m)) f
  = (mean (signs m) (fun s => f (1 :: s)) + mean (signs m) (fun s => f (-1 :: s))) / 2.
Proof. unfold signs. rewrite mean_words by easy. now rewrite mean_two. Qed.

Lemma signs_length m sigma : In sigma (signs m) -> length sigma = m.
Proof. intros I. now apply signs_enumerated in I. Qed.

Lemma pairing_le m b sigma x :
  In sigma (signs m) -> length x = m -> List.Forall (fun a => Rabs a <= b) x ->
  Rabs (pairing sigma x) <= INR m * b.
Proof.
  revert sigma x. induction m as [|m IH]; intros sigma x I L H.
  - simpl in I. destruct I as [<-|[]]. simpl. rewrite Rabs_R0. lra.
  - simpl in I. destruct x as [|a x]; [easy|].
    inversion H as [|a' x' Ha Hx]; subst. simpl in L.
    assert (E : exists s sigma', sigma = s :: sigma' /\ In sigma' (signs m) /\ (s = 1 \/ s = -1)).
    { apply in_app_or in I. destruct I as [I|I].
      - apply in_map_iff in I. destruct I as [v [<- Iv]]. exists 1, v. auto.
      - apply in_app_or in I. destruct I as [I|[]].
        apply in_map_iff in I. destruct I as [v [<- Iv]]. exists (-1), v. auto. }
    destruct E as [s [sigma' [-> [I' one]]]]. cbn [pairing].
    eapply Rle_trans; [apply Rabs_triang|]. rewrite S_INR.
    specialize (IH sigma' x I' ltac:(lia) Hx).
    assert (Rabs (s * a) <= b); [|lra]. rewrite Rabs_mult.
    destruct one as [->| ->]; [rewrite Rabs_R1|rewrite (Rabs_left (-1)) by lra]; lra.
Qed.

Lemma class_bound_nonneg m b F : (0 < m)%nat -> bounded_class m b F -> 0 <= b.
Proof.
  intros m0 B. destruct (class_inhabited m b F B) as [x Fx].
  pose proof (class_length m b F B x Fx) as L. pose proof (class_bound m b F B x Fx) as Q.
  destruct x as [|a x]; [simpl in L; lia|]. inversion Q; subst.
  eapply Rle_trans; [apply Rabs_pos | eauto].
Qed.

Lemma complexity_bounded m b F sigma :
  (0 < m)%nat -> bounded_class m b F -> In sigma (signs m) ->
  forall y, (exists x, F x /\ y = pairing sigma x / INR m) -> y <= b.
Proof.
  intros m0 B I y [x [Fx ->]]. assert (0 < INR m) by now apply lt_0_INR.
  apply (Rle_div_l _ _ (INR m)); [easy|]. rewrite (Rmult_comm b).
  eapply Rle_trans; [apply Rle_abs|].
  apply pairing_le; [easy | now apply (class_length m b F) | now apply (class_bound m b F)].
Qed.
