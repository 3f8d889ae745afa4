/* pins.pml: the pin word, for Spin. Two contents share one place (one replica record) on the fast
 * tier; both have a home below. Readers and a writer hit without the lock, an evictor writes back,
 * takes the record for the other content and fills it, a destroyer ends content 0. Checked: who
 * holds a pin sees his content's newest bytes and they do not move; a write is never lost; the
 * record of a dead content goes with its last pin; nobody waits for ever.
 *
 *   transition here       function in tensormem.h
 *   hit                   tnmi_tensor_hit_as, tnmi_tensor_may_hit (the compare-and-swap)
 *   look_again            tnmi_door_pin_one (rep[tier] and generation once more), tnmi_door_unhit
 *   unpin                 tnmi_tensor_unpin, tnmi_door_was_last
 *   last_pin              tnmi_door_last_pin, tnmi_engine_unpinned
 *   claim                 tnmi_tensor_claim
 *   leave                 tnmi_engine_leave, tnmi_engine_detach
 *   write_back            tnmi_engine_end_source (SOURCE while the copy reads)
 *   arrive                tnmi_engine_publish (BUSY becomes READY, a release)
 *   reap                  tnmi_engine_reap
 *
 * -DBUG=1 leaves the second look out, 2 the second claim after NOTIFY, 3 SOURCE: each must be found
 * (tests/proof.sh). */
#ifndef BUG
#define BUG 0
#endif
#define NONE     255
#define ABSENT   0
#define BUSY     1
#define READY    2
#define STATE    3
#define SOURCE   8
#define NOTIFY   64
#define WRITER   256
#define RECYCLE  4096
#define PIN      65536
#define PINS(w)  ((w) / PIN)
#define IS(w, s) (((w) & STATE) == (s))
#define MAY_READ(w)  (((w) & (BUSY | READY)) == READY)
#define MAY_WRITE(w) (MAY_READ(w) && !((w) & (SOURCE | WRITER)))

int word = READY;     /* the record's */
byte content = 0;     /* whose record it is; under the lock */
byte rep[2];          /* 0: the record; NONE */
bool named[2];        /* generation: false once the handle died */
bool dead[2];
byte newest[2];       /* version of the content */
byte home[2];         /* version of the replica below */
byte bytes_of, bytes; /* what lies in the place: whose, and which version */
bool lock;            /* the context's */
byte users;           /* readers and writers not done yet */

inline take() { atomic { !lock -> lock = true } }
inline give() { lock = false }

/* one read-modify-write each */
inline mark(set, clear) { d_step { word = (word | (set)) & ~(clear) } }
inline claim(got) {
    d_step {
        if
        :: IS(word, READY) && PINS(word) == 0 -> word = (word & ~STATE) | BUSY; got = true
        :: else -> got = false
        fi
    }
}

inline leave() { /* claimed, under the lock */
    rep[content] = NONE;
    d_step { word = (word & (15 * RECYCLE)) + RECYCLE; word = word & (16 * RECYCLE - 1) }
}

inline reap(got) {
    if
    :: dead[content] && rep[content] == 0 ->
        claim(got);
        if
        :: !got && BUG != 2 -> mark(NOTIFY, 0); claim(got)
        :: !got && BUG == 2 -> mark(NOTIFY, 0)
        :: else
        fi;
        if
        :: got -> leave()
        :: else
        fi
    :: else
    fi
}

/* the subtraction, and what the last pin does */
inline unpin(what, before, got) {
    d_step { before = word; word = word - (what) }
    if
    :: (before & NOTIFY) && PINS(before) == 1 ->
        take();
        if
        :: (word & (15 * RECYCLE)) == (before & (15 * RECYCLE)) && !IS(word, ABSENT) ->
            reap(got)
        :: else
        fi;
        give()
    :: else
    fi
}

inline hit(c, what, may, before, held) { /* without the lock */
    held = false;
    if
    :: rep[c] == 0 ->
        before = word;
        do
        :: !(may) -> break
        :: (may) ->
            d_step {
                if
                :: word == before -> word = word + (what); held = true
                :: else -> before = word
                fi
            }
            if
            :: held -> break
            :: else
            fi
        od
    :: else
    fi
}

inline look_again(c, same) { same = (BUG == 1) || (rep[c] == 0 && named[c]) }

proctype reader(byte c) {
    int before; bool held, same, got;
        hit(c, PIN, MAY_READ(before), before, held);
    if
    :: held ->
        look_again(c, same);
        if
        :: same ->
            assert(bytes_of == c);
            assert(bytes == newest[c] || (word & (15 * WRITER)));
            assert(bytes_of == c)
        :: else
        fi;
        unpin(PIN, before, got)
    :: else
    fi;
    users--
}

proctype writer(byte c) {
    int before; bool held, same, got;
    hit(c, PIN + WRITER, MAY_WRITE(before), before, held);
    if
    :: held ->
        look_again(c, same);
        if
        :: same ->
            assert(bytes_of == c && bytes == newest[c]);
            newest[c]++;
            bytes = newest[c]
        :: else
        fi;
        unpin(PIN + WRITER, before, got)
    :: else
    fi;
    users--
}

inline fill(c) { /* the record is free: it becomes this content's */
    take();
    if
    :: IS(word, ABSENT) && !dead[c] && rep[c] == NONE && rep[1 - c] == NONE ->
        content = c;
        mark(BUSY, 0);
        rep[c] = 0;
        give();
        bytes_of = NONE; /* on its way */
        bytes_of = c;
        bytes = home[c];
        take();
        if
        :: dead[c] -> leave()
        :: else -> mark(READY, BUSY)
        fi
    :: else
    fi;
    give()
}

inline evict(got, copied) {
    take();
    if
    :: rep[content] == 0 && IS(word, READY) && !dead[content] ->
        if
        :: home[content] != newest[content] && !(word & (15 * WRITER)) ->
            if
            :: BUG != 3 -> mark(SOURCE, 0)
            :: else
            fi;
            if
            :: !(word & (15 * WRITER)) || BUG == 3 ->
                give();
                copied = bytes;
                take();
                if
                :: rep[content] == 0 && !dead[content] -> home[content] = copied
                :: else
                fi
            :: else
            fi;
            mark(0, SOURCE)
        :: else
        fi;
        if
        :: rep[content] == 0 && (home[content] == newest[content] || (BUG == 3 && copied)) ->
            claim(got);
            if
            :: got && (home[content] == newest[content] || BUG == 3) -> leave()
            :: got && home[content] != newest[content] && BUG != 3 -> mark(READY, BUSY)
            :: else
            fi
        :: else
        fi;
        reap(got)
    :: else
    fi;
    give()
}

proctype engine() {
    bool got; byte round, copied;
    do
    :: round < 2 ->
        round++;
        evict(got, copied);
        fill(round % 2)
    :: else -> break
    od;
    users--
}

proctype destroyer() {
    bool got;
    take();
    named[0] = false;
    dead[0] = true;
    if
    :: content == 0 && !IS(word, BUSY) -> reap(got)
    :: else
    fi;
    give();
    users--
}

init {
    atomic {
        rep[0] = 0; rep[1] = NONE;
        named[0] = true; named[1] = true;
        users = 5;
        run reader(0); run reader(1); run writer(0); run engine(); run destroyer()
    }
    users == 0;
    assert(PINS(word) == 0 && !(word & (15 * WRITER)));
    assert(rep[0] == NONE);                          /* the dead one's record went */
    assert(!IS(word, BUSY));
    assert(rep[1] == NONE || bytes == newest[1]);
    assert(dead[0] || home[0] == newest[0] || (rep[0] == 0 && bytes == newest[0]))
}
