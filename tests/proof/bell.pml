/* bell.pml: who drives and who sleeps, for Spin. Threads wait for a copy of theirs each; one drives
 * (submits, polls, answers), the others sleep until there is news or nobody drives. Checked: no
 * sleeper is forgotten (every end is a proper one), and one at most drives.
 *
 *   transition here       function in tensormem.h
 *   waiter                tnmi_door_pin, tnmi_door_turn
 *   fall_asleep           tnmi_door_sleep
 *   wake                  tnmi_door_wake
 *   hand_on               tnmi_door_hand_on, in every tnmi_door_leave
 *   passer_by             any call that drives once and leaves: tnm_pump, tnm_try_pin
 *
 * -DBUG=1 leaves without handing on, 2 reads `rung` after the lock was given back: each must be found
 * (tests/proof.sh). */
#ifndef BUG
#define BUG 0
#endif
#define WAITERS 3

bool lock, asleep, driving;
byte sleepers, rung, told, changed;
bool arrived[WAITERS];   /* the copy it waits for */
bool listening[WAITERS]; /* in the condition variable */

inline take(what) { atomic { !what -> what = true } }
inline give(what) { what = false }

inline wake(all, k) {
    if
    :: all -> told = changed
    :: else
    fi;
    if
    :: sleepers > 0 ->
        take(asleep);
        rung++;
        if
        :: all -> d_step { listening[0] = false; listening[1] = false; listening[2] = false }
        :: else -> /* any one of them */
            if
            :: listening[0] -> listening[0] = false
            :: listening[1] -> listening[1] = false
            :: listening[2] -> listening[2] = false
            :: !listening[0] && !listening[1] && !listening[2]
            fi
        fi;
        give(asleep)
    :: else
    fi
}

inline fall_asleep(me, seen) {
    if
    :: BUG != 2 -> seen = rung
    :: else
    fi;
    sleepers++;
    take(asleep);
    give(lock);
    if
    :: BUG == 2 -> give(asleep); take(asleep); seen = rung
    :: else
    fi;
    do
    :: seen == rung ->
        atomic { listening[me] = true; asleep = false }
        !listening[me];
        take(asleep)
    :: else -> break
    od;
    give(asleep);
    take(lock);
    sleepers--
}

/* any copy that is out may have come */
inline drive() {
    assert(!driving);
    driving = true;
    give(lock);
    take(lock);
    if
    :: !arrived[0] -> arrived[0] = true; changed++
    :: !arrived[1] -> arrived[1] = true; changed++
    :: !arrived[2] -> arrived[2] = true; changed++
    :: arrived[0] && arrived[1] && arrived[2]
    fi;
    driving = false
}

inline leave() {
    if
    :: BUG == 1
    :: BUG != 1 && told != changed -> wake(true, k)
    :: BUG != 1 && told == changed && !driving -> wake(false, k)
    :: else
    fi;
    give(lock)
}

proctype waiter(byte me) {
    byte seen, k;
    take(lock);
    do
    :: arrived[me] -> break
    :: !arrived[me] && driving -> fall_asleep(me, seen)
    :: !arrived[me] && !driving ->
        drive();
        if
        :: told != changed -> wake(true, k)
        :: else
        fi;
        give(lock); /* tnmi_door_pause */
        take(lock)
    od;
    leave()
}

proctype passer_by() {
    byte k;
    take(lock);
    if
    :: !driving -> drive()
    :: else
    fi;
    leave()
}

init { atomic { run waiter(0); run waiter(1); run waiter(2); run passer_by() } }
