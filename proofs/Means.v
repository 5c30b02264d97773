(** Averages over finite lists: all the probability that these files need.

    [mean l f] is the average of f over the list l, so [l] is a uniform distribution (on its
    entries, counted with multiplicity). [words letters n] lists all sequences of n letters. *)

From Coq Require Import Reals Lra Lia List FinFun.
From Coquelicot Require Import Coquelicot.
From Keelback Require Import FiniteSums.
Import ListNotations.
Open Scope R_scope.

Section Mean.

Context {A : Type}.

Fixpoint total (f : A -> R) (l : list A) : R :=
  match l with
  | [] => 0
  | a :: rest => f a + total f rest
  end.

Definition mean (l : list A) (f : A -> R) : R := total f l / INR (length l).

Lemma total_ext l f g : (forall a, In a l -> f a = g a) -> total f l = total g l.
Proof.
  induction l as [|a l IH]; simpl; intros H; [easy|].
  now rewrite IH, H by auto.
Qed.

Lemma total_plus l f g : total (fun a => f a + g a) l = total f l + total g l.
Proof. induction l as [|a l IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma total_scal l c f : total (fun a => c * f a) l = c * total f l.
Proof. induction l as [|a l IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma total_const l c : total (fun _ => c) l = INR (length l) * c.
Proof.
  induction l as [|a l IH]; cbn [total length]; [simpl; lra|]. rewrite S_INR, IH. lra.
Qed.

Lemma total_le l f g : (forall a, In a l -> f a <= g a) -> total f l <= total g l.
Proof.
  induction l as [|a l IH]; simpl; intros H; [lra|].
  apply Rplus_le_compat; auto.
Qed.

Lemma total_lt l f g :
  (forall a, In a l -> f a <= g a) -> (exists a, In a l /\ f a < g a) -> total f l < total g l.
Proof.
  induction l as [|a l IH]; simpl; intros H [b [bl lt]]; [easy|]. destruct bl as [->|bl].
  - apply Rplus_lt_le_compat; [easy|]. apply total_le. auto.
  - apply Rplus_le_lt_compat; [auto|]. apply IH; [auto | now exists b].
Qed.

Lemma total_app l l' f : total f (l ++ l') = total f l + total f l'.
Proof. induction l as [|a l IH]; simpl; [lra | rewrite IH; lra]. Qed.

Lemma length_pos (l : list A) : l <> [] -> 0 < INR (length l).
Proof. destruct l; [easy|]. intros _. apply lt_0_INR. simpl. lia. Qed.

Lemma mean_ext l f g : (forall a, In a l -> f a = g a) -> mean l f = mean l g.
Proof. intros H. unfold mean. f_equal. now apply total_ext. Qed.

Lemma mean_plus l f g : mean l (fun a => f a + g a) = mean l f + mean l g.
Proof. unfold mean. rewrite total_plus. lra. Qed.

Lemma mean_scal l c f : mean l (fun a => c * f a) = c * mean l f.
Proof. unfold mean. rewrite total_scal. lra. Qed.

Lemma mean_scal_r l c f : mean l (fun a => f a * c) = mean l f * c.
Proof.
  rewrite (mean_ext l _ (fun a => c * f a)) by (intros; ring). rewrite mean_scal. ring.
Qed.

Lemma mean_minus l f g : mean l (fun a => f a - g a) = mean l f - mean l g.
Proof.
  rewrite (mean_ext l _ (fun a => f a + (-1) * g a)) by (intros; ring).
  rewrite mean_plus, mean_scal. ring.
Qed.

Lemma mean_const l c : l <> [] -> mean l (fun _ => c) = c.
Proof.
  intros H. unfold mean. rewrite total_const. apply length_pos in H. field. lra.
Qed.

Lemma mean_le l f g : (forall a, In a l -> f a <= g a) -> mean l f <= mean l g.
Proof.
  intros H. unfold mean. destruct l as [|a l]; [simpl; lra|].
  apply Rmult_le_compat_r; [|now apply total_le].
  left. apply Rinv_0_lt_compat. now apply length_pos.
Qed.

Lemma mean_lt l f g :
  (forall a, In a l -> f a <= g a) -> (exists a, In a l /\ f a < g a) -> mean l f < mean l g.
Proof.
  intros H E. unfold mean. apply Rmult_lt_compat_r.
  - apply Rinv_0_lt_compat, length_pos. destruct E as [a [I _]]. now destruct l.
  - now apply total_lt.
Qed.

Lemma mean_le_const l f c : l <> [] -> (forall a, In a l -> f a <= c) -> mean l f <= c.
Proof. intros ne H. rewrite <- (mean_const l c ne). now apply mean_le. Qed.

Lemma mean_nonneg l f : (forall a, In a l -> 0 <= f a) -> 0 <= mean l f.
Proof.
  intros H. destruct l as [|a l]; [unfold mean; simpl; lra|].
  rewrite <- (mean_const (a :: l) 0) by easy. now apply mean_le.
Qed.

Lemma mean_sum l n (f : nat -> A -> R) :
  mean l (fun a => \sum_(k < n) f k a) = \sum_(k < n) mean l (f k).
Proof.
  induction n as [|n IH]; simpl.
  - unfold mean. rewrite (total_ext l _ (fun _ => 0 * 0)) by (intros; ring).
    rewrite total_scal. lra.
  - now rewrite mean_plus, IH.
Qed.

(** Jensen's inequality for the exponential. *)
Lemma exp_mean_le l f : l <> [] -> exp (mean l f) <= mean l (fun a => exp (f a)).
Proof.
  intros ne. set (m := mean l f).
  apply Rle_trans with (mean l (fun a => exp m * (1 + (f a - m)))).
  - rewrite mean_scal, mean_plus, mean_minus, !mean_const by easy. fold m. lra.
  - apply mean_le. intros a _. replace (exp (f a)) with (exp m * exp (f a - m))
      by (rewrite <- exp_plus; f_equal; lra).
    apply Rmult_le_compat_l; [left; apply exp_pos | apply exp_ineq1_le].
Qed.

End Mean.

Lemma total_map {A B} (h : B -> A) l f : total f (map h l) = total (fun b => f (h b)) l.
Proof. induction l as [|b l IH]; simpl; [easy | now rewrite IH]. Qed.

Lemma mean_map {A B} (h : B -> A) l f : mean (map h l) f = mean l (fun b => f (h b)).
Proof. unfold mean. now rewrite total_map, map_length. Qed.

Lemma mean_derive {A} (l : list A) (f df : A -> R -> R) x :
  (forall a, In a l -> is_derive (f a) x (df a x)) ->
  is_derive (fun y => mean l (fun a => f a y)) x (mean l (fun a => df a x)).
Proof.
  intros H. unfold mean.
  assert (T : is_derive (fun y => total (fun a => f a y) l) x (total (fun a => df a x) l)).
  { clear - H. induction l as [|a l IH]; simpl.
    - exact (is_derive_const 0 x).
    - apply (is_derive_plus (f a)); [apply H; now left|]. apply IH. intros b I. apply H.
      now right. }
  apply is_derive_ext with (fun y => / INR (length l) * total (fun a => f a y) l).
  { intros y. refine (_ : @eq R _ _). apply Rmult_comm. }
  eapply is_derive_eq; [apply (is_derive_scal (fun y => total (fun a => f a y) l)), T|].
  apply Rmult_comm.
Qed.

(** ** All sequences of letters *)

Lemma NoDup_app_disjoint {A} (l l' : list A) :
  NoDup l -> NoDup l' -> (forall a, In a l -> In a l' -> False) -> NoDup (l ++ l').
Proof.
  intros N N' D. induction N as [|a l notin N IH]; simpl; [easy|]. constructor.
  - intros I. apply in_app_or in I. destruct I as [I|I]; [easy|]. apply (D a); [now left | easy].
  - apply IH. intros b I J. apply (D b); [now right | easy].
Qed.

Fixpoint words {A} (letters : list A) (n : nat) : list (list A) :=
  match n with
  | O => [[]]
  | S m => flat_map (fun a => map (cons a) (words letters m)) letters
  end.

Section Words.

Context {A : Type}.
Variable letters : list A.

Lemma total_flat_map {B} (h : A -> list B) (f : B -> R) l :
  total f (flat_map h l) = total (fun a => total f (h a)) l.
Proof. induction l as [|a l IH]; simpl; [easy | now rewrite total_app, IH]. Qed.

Lemma words_length n : length (words letters n) = (length letters ^ n)%nat.
Proof.
  induction n as [|n IH]; [easy|]. simpl.
  assert (E : forall l, length (flat_map (fun a => map (cons a) (words letters n)) l)
                        = (length l * length letters ^ n)%nat).
  { induction l as [|a l IHl]; [easy|]. simpl. rewrite app_length, map_length, IH, IHl. easy. }
  apply E.
Qed.

Lemma words_spec n w :
  In w (words letters n) <-> length w = n /\ List.Forall (fun a => In a letters) w.
Proof.
  revert w. induction n as [|n IH]; intros w; simpl.
  - split.
    + intros [<-|[]]. now split.
    + intros [L _]. left. now destruct w.
  - rewrite in_flat_map. split.
    + intros [a [Ha Hw]]. apply in_map_iff in Hw. destruct Hw as [v [<- Hv]].
      apply IH in Hv. destruct Hv as [L F]. simpl. split; [now rewrite L | now constructor].
    + intros [L F]. destruct w as [|a w]; [easy|]. inversion F; subst. exists a.
      split; [easy|]. apply in_map, IH. split; [now inversion L | easy].
Qed.

Lemma words_NoDup n : NoDup letters -> NoDup (words letters n).
Proof.
  intros ND. induction n as [|n IH]; simpl; [constructor; [easy | constructor]|].
  revert IH. generalize (words letters n). intros ws N. induction ND as [|a l notin ND IHl]; simpl; [constructor|].
  apply NoDup_app_disjoint.
  - apply FinFun.Injective_map_NoDup; [|easy]. intros v w E. now inversion E.
  - apply IHl.
  - intros w I J. apply in_map_iff in I. destruct I as [v [<- _]].
    apply in_flat_map in J. destruct J as [b [bl J]]. apply in_map_iff in J.
    destruct J as [v' [E _]]. inversion E. now subst.
Qed.

Hypothesis some_letter : letters <> [].

Lemma words_not_empty n : words letters n <> [].
Proof.
  intros E. pose proof (words_length n) as L. rewrite E in L. simpl in L.
  destruct letters as [|a l]; [easy|]. symmetry in L.
  apply Nat.pow_nonzero in L; [easy | easy].
Qed.

(** The first letter and the others are independent. *)
Lemma mean_words n f :
  mean (words letters (S n)) f
  = mean letters (fun a => mean (words letters n) (fun w => f (a :: w))).
Proof.
  unfold mean at 1. rewrite words_length. simpl words. rewrite total_flat_map.
  rewrite Nat.pow_succ_r', mult_INR.
  pose proof (length_pos letters some_letter).
  pose proof (length_pos _ (words_not_empty n)) as P. rewrite words_length in P.
  unfold mean. rewrite words_length.
  rewrite (total_ext letters (fun a => total (fun w => f (a :: w)) (words letters n) / _)
    (fun a => / INR (length letters ^ n) * total f (map (cons a) (words letters n))))
    by (intros; rewrite total_map; field; lra).
  rewrite total_scal. field. lra.
Qed.

(** Letter k of a random word is a random letter. *)
Lemma mean_words_nth default n k g :
  (k < n)%nat -> mean (words letters n) (fun w => g (nth k w default)) = mean letters g.
Proof.
  revert k. induction n as [|n IH]; intros k kn; [lia|].
  rewrite mean_words. destruct k as [|k]; simpl.
  - apply mean_ext. intros a _. apply mean_const, words_not_empty.
  - rewrite (mean_ext letters _ (fun _ => mean letters g)) by (intros; apply IH; lia).
    now apply mean_const.
Qed.

End Words.
