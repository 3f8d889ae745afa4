; tnmi_base_odd: for every a and every power of two, a & (power - 1) is a modulo power.
(set-logic QF_BV)
(declare-const a (_ BitVec 64))
(declare-const k (_ BitVec 64))
(define-fun power () (_ BitVec 64) (bvshl #x0000000000000001 k))
(define-fun odd () (_ BitVec 64) (bvand a (bvsub power #x0000000000000001)))
(assert (bvult k #x0000000000000040))
; a = (a >> k << k) + odd, and odd < power: the division's own definition
(assert (not (and (= a (bvadd (bvshl (bvlshr a k) k) odd)) (bvult odd power))))
(check-sat)
