(** Binomial coefficients. *)

From Coq Require Import Reals Lra Lia.
From Keelback Require Import FiniteSums.
Open Scope R_scope.

(** n over k, a real number. *)
Notation choose := Binomial.C.

Lemma C_0 n : choose n 0 = 1.
Proof. unfold Binomial.C. simpl. rewrite Nat.sub_0_r. field. apply INR_fact_neq_0. Qed.

Lemma C_n n : choose n n = 1.
Proof. unfold Binomial.C. rewrite Nat.sub_diag. simpl. field. apply INR_fact_neq_0. Qed.

Lemma C_pos n k : 0 < choose n k.
Proof.
  unfold Binomial.C. apply Rdiv_lt_0_compat; [apply INR_fact_lt_0|].
  apply Rmult_lt_0_compat; apply INR_fact_lt_0.
Qed.

(** Pascal's rule, summed against any sequence. *)
Lemma pascal_sum n a :
  \sum_(k < S (S n)) (choose (S n) k * a k) = \sum_(k < S n) (choose n k * (a k + a (S k))).
Proof.
  rewrite sum_first. cbn [sum]. rewrite C_0, C_n.
  rewrite (sum_ext n (fun k => choose (S n) (S k) * a (S k))
    (fun k => choose n k * a (S k) + choose n (S k) * a (S k)))
    by (intros; rewrite <- pascal by easy; ring).
  rewrite sum_plus.
  assert (E : a 0%nat + \sum_(k < n) (choose n (S k) * a (S k))
              = \sum_(k < n) (choose n k * a k) + choose n n * a n).
  { transitivity (\sum_(k < S n) (choose n k * a k)); [|easy]. rewrite sum_first, C_0. ring. }
  rewrite (sum_ext n (fun k => choose n k * (a k + a (S k)))
    (fun k => choose n k * a k + choose n k * a (S k))) by (intros; ring).
  rewrite sum_plus. rewrite C_n in *. lra.
Qed.

Lemma C_symmetric n k : (k <= n)%nat -> choose n (n - k) = choose n k.
Proof.
  intros le. unfold Binomial.C. replace (n - (n - k))%nat with k by lia.
  rewrite (Rmult_comm (INR (fact (n - k)))). easy.
Qed.

Lemma C_absorb n k : (k <= n)%nat -> INR (S k) * choose (S n) (S k) = INR (S n) * choose n k.
Proof.
  intros le. unfold Binomial.C. replace (S n - S k)%nat with (n - k)%nat by lia.
  rewrite (fact_simpl n), (fact_simpl k), !mult_INR. field.
  repeat split; try apply INR_fact_neq_0. apply not_0_INR. lia.
Qed.

Lemma C_absorb_r n k :
  (S k <= n)%nat -> INR (n - k) * choose (S n) (S k) = INR (S n) * choose n (S k).
Proof.
  intros le. unfold Binomial.C. replace (S n - S k)%nat with (S (n - S k)) by lia.
  replace (n - k)%nat with (S (n - S k)) by lia.
  rewrite (fact_simpl n), (fact_simpl (n - S k)), !mult_INR. field.
  repeat split; try apply INR_fact_neq_0. apply not_0_INR. lia.
Qed.
