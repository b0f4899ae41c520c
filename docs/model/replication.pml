/*
 * The core of the replication protocol (../protocol.md) for one block of one shard, checked by spin.
 *
 * Promises: in every reachable state within the bounds, no acknowledged write is lost, no read is stale, the members are
 * equal when a term begins to serve, and no intact replica is taken for one that was put back. See README.md for what the
 * model covers and what it leaves to the simulator.
 *
 * Every option of a process below is one step that the system may take at any time at which its guard holds. A message
 * that is lost, late or repeated is therefore a step that is taken never, later, or again. Crashes need no process of
 * their own state: a crash forgets what was volatile.
 *
 * Switches (-D), each of which breaks one rule; spin must then find a counterexample:
 *   ACK_BEFORE_DURABLE   a replica acknowledges a write that is not durable yet
 *   ACK_BY_ONE           the coordinator answers a client when the first member has acknowledged
 *   DROP_COUNTS_AT_ONCE  the coordinator stops waiting for a member before the record says that it is out
 *   REJOIN_WITHOUT_SYNC  a replica that was out joins without being compared and copied to
 *   JOIN_UNCOUNTED       a joining replica is not waited for before its Add is seen
 *   NO_FENCE             a replica obeys a coordinator of an older term than the one it promised
 *   NO_RECONCILE         a take-over does not make the members equal
 *   BASE_LEADS           a drop records the newest write as base, though it is unfinished
 *   BASE_UNSERVED        a drop in a take-over takes the beginning of a term that nobody served as base
 *   STABLE_LEADS         the watermark that members are told includes the unfinished write
 *   SEAL_IGNORES_LEASE   a replica promises a newer term while its lease for an older one runs
 *   LEASE_FORGOTTEN      a replica that restarts does not wait for the leases it may have granted
 *   READ_WITHOUT_LEASE   a read is delivered without the leases of the other members
 * REACHED asserts that the interesting end is never reached; spin must refute that, or the model would be vacuous.
 */

#ifndef N
#define N 3                     /* replicas, each on a node of its own */
#endif
#ifndef TERMS
#define TERMS 3                 /* attachments, one after the other */
#endif
#ifndef WRITES
#define WRITES 2                /* client writes in all */
#endif
#ifndef READS
#define READS 2                 /* client reads in all */
#endif
#ifndef DROPS
#define DROPS 2
#endif
#ifndef SYNCS
#define SYNCS 1
#endif
#ifndef WIPES
#define WIPES 0                 /* replicas that lose their storage */
#endif

/* A version is (term, seq); comparing the numbers compares the term first. Version (t, 0) is before all writes of t. */
#define VER(t, q)   (((t) << 3) | (q))
#define TERM(v)     ((v) >> 3)
#define BIT(i)      (1 << (i))
#define IN(set, i)  (((set) >> (i)) & 1)
#define SUBSET(a, b) (((a) & ~(b)) == 0)
#define MAX(a, b)   ((a) > (b) -> (a) : (b))
#define MIN(a, b)   ((a) < (b) -> (a) : (b))
#define ALL         (BIT(N) - 1)

/* ---- The record, as Raft has committed it. A command is one step; it compares the term, and the epoch by `fresh`. ---- */
byte r_term;                    /* the term of the newest attach; 0: never attached */
byte r_served;                  /* the newest term that is recorded as served (`activated`) */
byte r_set = ALL;               /* the in-sync set */
byte r_base[N];                 /* of a replica that is out: every acknowledged write up to here is on it */
bool r_exact[N];                /* its journal's position is recorded: it was dropped by a coordinator that served */

/* ---- Replicas. ---- */
byte ver[N];                    /* durable: the version of the block */
byte promised[N];               /* durable: the promised term */
byte noted[N];                  /* durable: the watermark; at least (t, 0) once it has noted that it holds all before t */
bool lost[N];                   /* its storage is not the recorded one: it refuses everything as WrongStore */
byte buf[N];                    /* volatile: a write that the store was given and that is not durable yet; 0: none */
byte lease[N];                  /* the term whose lease runs here; 0: none */

/* ---- Coordinators, one for each term. ---- */
mtype = { NONE, TAKEOVER, SERVING, GONE };
mtype = { IDLE, LISTING, COMPARING, COPYING, COPIED, NOTED };
typedef Coordinator {
    mtype phase = NONE;
    byte held;                  /* the newest term that was recorded as served when it attached */
    byte seen;                  /* the in-sync set in the record that it has seen */
    bool fresh;                 /* the record that it has seen is the newest (its epoch would match) */
    byte sealed;                /* members that have promised this term to it */
    byte w;                     /* its last write; 0: none */
    bool busy;                  /* that write is unanswered */
    byte sent;                  /* replicas to which it was sent; it may arrive late, also when the coordinator is gone */
    byte got;                   /* replicas that have acknowledged it */
    bool overtaken;             /* when it was asked for, a newer version had been shown to a client */
    byte stable;                /* the watermark */
    byte believed;              /* members whose lease it believes to be valid */
    bool reading;
    byte from;                  /* the member that was read */
    byte value;                 /* the version that was read */
    bool stale;                 /* a newer one had been shown to a client when the read was asked for */
    mtype sync = IDLE;
    byte target;
    byte before;                /* the last write that is not mirrored to the target (M in protocol.md) */
    bool listed;                /* the target itself has something above its base */
    byte source;                /* the version that the source holds */
    byte had;                   /* the version that the target held when it was compared */
    byte joining;               /* the set of the target, once it counts for every answer and every lease */
    bool adding;                /* an Add is on its way to Raft; it may be committed when this coordinator is gone */
};
Coordinator c[TERMS + 1];       /* c[0] is unused */

/* ---- What clients know. ---- */
byte shown;                     /* the highest version that was acknowledged, or returned by a read */

byte writes, reads, drops, syncs, wipes;   /* how much of the bounds is used */
#ifdef REACHED
bool joined;                    /* a replica came back into the set */
#endif
hidden byte k, x, y, z;         /* scratch of one step */
hidden byte f;

#ifdef NO_FENCE
#define OBEYS(i, t) (!lost[i] && promised[i] >= (t))
#else
#define OBEYS(i, t) (!lost[i] && promised[i] == (t))
#endif

/* Has every replica that counts acknowledged the write? */
#ifdef ACK_BY_ONE
#define COMPLETE(t) (c[t].got != 0)
#else
#define COMPLETE(t) SUBSET(c[t].seen | c[t].joining, c[t].got)
#endif

/* Are the leases of all replicas that count valid, besides that of the one that was read? */
#ifdef READ_WITHOUT_LEASE
#define COVERED(t) true
#else
#define COVERED(t) SUBSET((c[t].seen | c[t].joining) & ~BIT(c[t].from), c[t].believed)
#endif

/* No lease runs for another session. */
#ifdef SEAL_IGNORES_LEASE
#define FREE_TO_PROMISE(i, t) true
#else
#define FREE_TO_PROMISE(i, t) (lease[i] == 0 || lease[i] == t)
#endif

/* The watermark as the coordinator tells it. */
#ifdef STABLE_LEADS
#define WATERMARK(t) MAX(c[t].stable, c[t].w)
#else
#define WATERMARK(t) c[t].stable
#endif

#define ALIVE(t)  (c[t].phase == TAKEOVER || c[t].phase == SERVING)

/* I2, I4: every in-sync replica has every acknowledged write. I9: a base is sound. */
inline check() {
    for (k : 0 .. N - 1) {
        assert(!IN(r_set, k) || lost[k] || ver[k] >= shown);
        assert(IN(r_set, k) || lost[k] || shown > r_base[k] || ver[k] >= shown)
    }
    k = 0
}

/* Of the members that coordinator t has seen: the lowest watermark (x), the lowest (y) and the highest version (z). */
inline survey(t) {
    x = 255; y = 255; z = 0;
    for (k : 0 .. N - 1) {
        if
        :: IN(c[t].seen, k) ->
            x = MIN(x, noted[k]);
            y = MIN(y, ver[k]);
            z = MAX(z, ver[k])
        :: else
        fi
    }
    k = 0
}

/* The replica's store makes durable what it was given before. */
inline flush(i) {
    ver[i] = MAX(ver[i], buf[i]);
    buf[i] = 0
}

/* A message that cannot change replica i any more is forgotten, so that equal states are equal. */
inline no_longer(t, i) {
    if
    :: !c[t].busy && (ver[i] >= c[t].w || promised[i] > t || lost[i]) ->
        c[t].sent = c[t].sent & ~BIT(i);
        if
        :: c[t].sent == 0 && c[t].phase == GONE -> c[t].w = 0
        :: else
        fi
    :: else
    fi
}

inline promise(i, t) {
    promised[i] = t;
    for (k : 1 .. TERMS) { no_longer(k, i) }
    k = 0
}

inline end_sync(t) {
    c[t].sync = IDLE; c[t].target = 0; c[t].before = 0; c[t].listed = false; c[t].source = 0; c[t].had = 0;
    c[t].joining = 0
}

/* The record that coordinator t has seen is no longer the newest. */
inline changed(t) {
    c[t].fresh = false;
    check()
}

/* ---- One coordinator: an attachment. ---- */
active [TERMS] proctype Coordinate() {
    byte t = _pid + 1;
    do
    /* attach: anybody may take the volume from anybody at any time (force). */
    :: d_step { c[t].phase == NONE && r_term == t - 1 ->
        r_term = t; c[t].phase = TAKEOVER; c[t].held = r_served; c[t].seen = r_set; c[t].fresh = true }

    /* Its node crashes, or it learns that it is fenced. What it had sent may still arrive; an Add may still be committed. */
    :: d_step { ALIVE(t) ->
        c[t].phase = GONE; c[t].held = 0; c[t].seen = 0; c[t].fresh = false; c[t].sealed = 0;
        c[t].busy = false; c[t].got = 0; c[t].overtaken = false; c[t].stable = 0;
        c[t].reading = false; c[t].from = 0; c[t].value = 0; c[t].stale = false;
        c[t].believed = 0;
        for (k : 0 .. N - 1) {
            if
            :: lease[k] == t -> lease[k] = 0
            :: else
            fi;
            no_longer(t, k)
        }
        k = 0;
        if
        :: c[t].adding
        :: else -> end_sync(t)
        fi }

    /* It sees the newest record of its term. */
    :: d_step { ALIVE(t) && r_term == t && !c[t].fresh ->
        c[t].seen = r_set; c[t].fresh = true;
        if
        :: c[t].sync != IDLE && IN(r_set, c[t].target) -> end_sync(t)
        :: else
        fi }

    /* activated: all members have noted that they hold everything before this term. */
    :: d_step { c[t].phase == TAKEOVER && r_term == t && r_served < t ->
        survey(t);
        if
        :: SUBSET(c[t].seen, c[t].sealed) && x >= VER(t, 0) -> r_served = t
        :: else
        fi }

    /* The record says that the term is served: requests begin. I8: the members are equal by now. */
    :: d_step { c[t].phase == TAKEOVER && r_served == t ->
        survey(t);
        if
        :: SUBSET(c[t].seen, c[t].sealed) && x >= VER(t, 0) ->
            assert(y == z);
            c[t].phase = SERVING; c[t].stable = VER(t, 0); c[t].sealed = 0
        :: else
        fi }

    /* Rule W, 1: a write is numbered and sent to every member. It holds the range lock, so no read is under way. */
    :: d_step { c[t].phase == SERVING && !c[t].busy && !c[t].reading && writes < WRITES ->
        writes++;
        if
        :: c[t].w == 0 -> c[t].w = VER(t, 1)
        :: else -> c[t].w++
        fi;
        c[t].busy = true; c[t].sent = c[t].seen; c[t].got = 0;
        c[t].overtaken = shown > c[t].w }

    /* Rule W, 2: every member and a joining replica have acknowledged; the client is answered. */
    :: d_step { c[t].phase == SERVING && c[t].busy && COMPLETE(t) ->
        assert(!c[t].overtaken);                    /* I1: no newer term had served when this write was asked for */
        shown = MAX(shown, c[t].w);
        c[t].stable = c[t].w; c[t].busy = false; c[t].got = 0;
        for (k : 0 .. N - 1) { no_longer(t, k) }
        check() }

    /* Rule R, 3: the leases of all other members are valid at a moment after the data arrived. */
    :: d_step { c[t].reading && IN(c[t].seen, c[t].from) && COVERED(t) ->
        assert(!c[t].stale);                        /* I6 */
        shown = MAX(shown, c[t].value);             /* I5: what was read once is not lost either */
        c[t].reading = false; c[t].from = 0; c[t].value = 0;
        check() }

    /* What arrived from a member that then left the set is read again. */
    :: d_step { c[t].reading && !IN(c[t].seen, c[t].from) ->
        c[t].reading = false; c[t].from = 0; c[t].value = 0; c[t].stale = false }

    /* A sync fails. Before the target counts, that changes nothing; after it, only a committed Drop ends the attempt. */
    :: d_step { c[t].sync != IDLE && c[t].joining == 0 -> end_sync(t) }
    :: d_step { c[t].joining != 0 && !c[t].adding && c[t].fresh && r_term == t -> end_sync(t) }

    /* The copying is complete: from now on the target counts for every answer and every lease. */
    :: d_step { c[t].sync == COPIED && c[t].joining == 0 && OBEYS(c[t].target, t) ->
#ifdef JOIN_UNCOUNTED
        c[t].sync = NOTED
#else
        c[t].joining = BIT(c[t].target)
#endif
        }

    /* Add is proposed with the epoch of the record that was seen, and committed later or never. */
    :: d_step { c[t].phase == SERVING && c[t].sync == NOTED && c[t].fresh && r_term == t && !c[t].adding ->
        c[t].adding = true }
    :: d_step { c[t].adding && r_term == t ->
        c[t].adding = false;
        r_set = r_set | BIT(c[t].target); r_base[c[t].target] = 0; r_exact[c[t].target] = false;
#ifdef REACHED
        joined = true;
#endif
        if
        :: c[t].phase == GONE -> end_sync(t)
        :: else
        fi;
        changed(t) }
    :: d_step { c[t].adding && r_term != t ->
        c[t].adding = false;
        if
        :: c[t].phase == GONE -> end_sync(t)
        :: else
        fi }
    od
}

/* ---- What passes between coordinator t and replica i, and what coordinator t decides about it. ---- */
active [TERMS * N] proctype Link() {
    byte t = (_pid - TERMS) / N + 1;
    byte i = (_pid - TERMS) % N;
    do
    /* Seal in a take-over. While a lease runs for another session the answer is SealWait. */
    :: d_step { c[t].phase == TAKEOVER && IN(c[t].seen, i) && !IN(c[t].sealed, i) && !lost[i] && promised[i] <= t &&
        FREE_TO_PROMISE(i, t) ->
        assert(noted[i] >= VER(c[t].held, 0));      /* I12: an intact member is not taken for one that was put back */
        flush(i); promise(i, t); c[t].sealed = c[t].sealed | BIT(i) }

    /* drop in a take-over: at least one other member is sealed. The base is the highest watermark of the sealed, but not
       the beginning of a term of which the record does not know that it was served. */
    :: d_step { c[t].phase == TAKEOVER && c[t].fresh && r_term == t && IN(c[t].seen, i) && drops < DROPS &&
        (c[t].seen & c[t].sealed & ~BIT(i)) != 0 ->
        drops++; x = 0;
        for (k : 0 .. N - 1) {
            if
            :: IN(c[t].seen & c[t].sealed, k) -> x = MAX(x, noted[k])
            :: else
            fi
        }
#ifndef BASE_UNSERVED
        if
        :: x > VER(r_served, 0) && x == VER(TERM(x), 0) -> x = VER(r_served, 0)
        :: else
        fi;
#endif
        r_set = r_set & ~BIT(i); r_base[i] = x; r_exact[i] = false;
        changed(t) }

    /* Reconcile: if some version is above the lowest watermark, the highest one is copied to members with a lower one. */
    :: d_step { c[t].phase == TAKEOVER && SUBSET(c[t].seen, c[t].sealed) && IN(c[t].seen, i) && OBEYS(i, t) ->
        survey(t);
        if
#ifndef NO_RECONCILE
        :: z > x && ver[i] < z -> ver[i] = z
#endif
        :: else
        fi }

    /* Then each member notes durably that it holds everything before the term. */
    :: d_step { c[t].phase == TAKEOVER && SUBSET(c[t].seen, c[t].sealed) && IN(c[t].seen, i) && OBEYS(i, t) &&
        noted[i] < VER(t, 0) ->
        survey(t);
        if
#ifdef NO_RECONCILE
        :: true -> noted[i] = VER(t, 0)
#else
        :: z <= x || y == z -> noted[i] = VER(t, 0)
#endif
        :: else
        fi }

    /* drop while serving: never all members; the base is the watermark. One proposal at a time. */
    :: d_step { c[t].phase == SERVING && c[t].fresh && r_term == t && IN(c[t].seen, i) && r_set != BIT(i) &&
        !c[t].adding && drops < DROPS ->
        drops++;
        r_set = r_set & ~BIT(i); r_exact[i] = true;
#ifdef BASE_LEADS
        r_base[i] = MAX(c[t].stable, c[t].w);
#else
        r_base[i] = c[t].stable;
#endif
        changed(t) }
#ifdef DROP_COUNTS_AT_ONCE
    :: d_step { c[t].phase == SERVING && IN(c[t].seen, i) && c[t].seen != BIT(i) -> c[t].seen = c[t].seen & ~BIT(i) }
#endif

    /* A write arrives, perhaps late: the coordinator may be gone. Blocks with this version or a newer one are left alone. */
    :: d_step { c[t].w != 0 && IN(c[t].sent, i) && OBEYS(i, t) && ver[i] < c[t].w && buf[i] < c[t].w ->
        buf[i] = c[t].w
#ifdef ACK_BEFORE_DURABLE
        ; c[t].got = c[t].got | BIT(i)
#endif
        }

    /* It is durable and the promise still stands: the acknowledgement. A repeat is answered likewise. When the first member
       has applied it, it is mirrored to the target of a sync. */
    :: d_step { c[t].busy && IN(c[t].sent, i) && !IN(c[t].got, i) && OBEYS(i, t) && ver[i] >= c[t].w ->
        c[t].got = c[t].got | BIT(i);
        if
        :: c[t].sync != IDLE && c[t].w > c[t].before -> c[t].sent = c[t].sent | BIT(c[t].target)
        :: else
        fi }

    /* The watermark comes with writes and leases; it counts only within the term that the replica has noted. */
    :: d_step { c[t].phase == SERVING && IN(c[t].seen, i) && OBEYS(i, t) && noted[i] >= VER(t, 0) &&
        noted[i] < WATERMARK(t) ->
        noted[i] = WATERMARK(t) }

    /* A lease: the replica promises to serve no newer session. The coordinator's belief ends before the lease does; that
       the lease runs on for a while only delays others, so here both end in one step. */
    :: d_step { c[t].phase == SERVING && IN(c[t].seen | c[t].joining, i) && OBEYS(i, t) && !IN(c[t].believed, i) &&
        (c[t].reading || reads < READS) &&
        FREE_TO_PROMISE(i, t) ->
        lease[i] = t; c[t].believed = c[t].believed | BIT(i) }
    :: d_step { IN(c[t].believed, i) ->
        c[t].believed = c[t].believed & ~BIT(i);
        if
        :: lease[i] == t -> lease[i] = 0
        :: else
        fi }

    /* Rule R, 1: a member is read. */
    :: d_step { c[t].phase == SERVING && !c[t].busy && !c[t].reading && IN(c[t].seen, i) && OBEYS(i, t) &&
        reads < READS ->
        reads++; c[t].reading = true; c[t].from = i; c[t].value = ver[i]; c[t].stale = ver[i] < shown }

    /* SyncStart, and the target promises this term. Storage that was lost is made anew, with base 0. */
    :: d_step { c[t].phase == SERVING && c[t].fresh && r_term == t && !IN(r_set, i) && c[t].sync == IDLE && syncs < SYNCS &&
        promised[i] <= t && FREE_TO_PROMISE(i, t) ->
        syncs++;
        if
        :: lost[i] -> lost[i] = false; r_base[i] = 0; r_exact[i] = false
        :: else -> assert(noted[i] >= VER(TERM(r_base[i]), 0)); flush(i)
        fi;
        promise(i, t);
        c[t].sync = LISTING; c[t].target = i; c[t].before = c[t].w;
#ifdef REJOIN_WITHOUT_SYNC
        c[t].sync = COPIED
#endif
        }

    /* The target says whether it has something above its base; or above its own watermark, where that is lower and nobody
       knows how far its journal had got. */
    :: d_step { c[t].sync == LISTING && c[t].target == i && OBEYS(i, t) ->
        x = (r_exact[i] -> r_base[i] : MIN(r_base[i], noted[i]));
        c[t].listed = ver[i] > x; c[t].had = ver[i];
        c[t].sync = COMPARING }

    /* When all writes that are not mirrored have ended, a source (this replica) says what it has. */
    :: d_step { c[t].sync == COMPARING && IN(c[t].seen, i) && OBEYS(i, t) && !(c[t].busy && c[t].w == c[t].before) ->
        k = c[t].target;
        x = (r_exact[k] -> r_base[k] : MIN(r_base[k], noted[k]));
        f = (c[t].had != ver[i]) && !(TERM(c[t].had) == t && c[t].had >= ver[i]);
        if
        :: c[t].listed && f -> c[t].source = ver[i]; c[t].sync = COPYING
        :: !c[t].listed && ver[i] > x -> c[t].source = ver[i]; c[t].had = 255; c[t].sync = COPYING
        :: else -> c[t].had = 0; c[t].sync = COPIED
        fi;
        k = 0 }

    /* Copy: compare-and-set. */
    :: d_step { c[t].sync == COPYING && c[t].target == i && OBEYS(i, t) ->
        if
        :: c[t].source > ver[i] || (ver[i] == c[t].had && TERM(ver[i]) < t) -> ver[i] = c[t].source
        :: else
        fi;
        c[t].source = 0; c[t].had = 0; c[t].listed = false; c[t].sync = COPIED }

    /* Everything clients were told of is on the target; it notes that durably. */
    :: d_step { c[t].sync == COPIED && c[t].joining == BIT(i) && OBEYS(i, t) &&
        (c[t].stable <= c[t].before || ver[i] >= c[t].stable) ->
        noted[i] = VER(t, 0); c[t].sync = NOTED }
    od
}

/* ---- One replica by itself. ---- */
active [N] proctype Replica() {
    byte i = _pid - TERMS - TERMS * N;
    do
    /* The store makes durable what it was given. */
    :: d_step { buf[i] != 0 -> k = TERM(buf[i]); flush(i); no_longer(k, i); k = 0 }

    /* The process restarts. What is durable stays; after a promise it waits as if a lease were running. */
    :: d_step { buf[i] != 0 -> buf[i] = 0 }
#ifdef LEASE_FORGOTTEN
    :: d_step { lease[i] != 0 -> lease[i] = 0 }
#endif

    /* The storage is lost and made anew under another store uuid. */
    :: d_step { wipes < WIPES && !lost[i] ->
        wipes++; lost[i] = true; ver[i] = 0; buf[i] = 0; noted[i] = 0; promised[i] = 0; lease[i] = 0 }
    od
}

#ifdef REACHED
/* Is it ever so that a replica came back, a later term serves, and a client was told of a write of that term? */
active proctype Reached() {
    d_step { joined && r_served == TERMS && TERM(shown) == TERMS && writes == WRITES -> assert(false) }
}
#endif
