/* A chain of the table, as repeat.h and table.h handle it: one writer publishes, replaces and
 * unlinks nodes and frees them by generations, while three readers walk. `make prove` has Spin
 * search all interleavings.
 *
 * Claims: no node is freed while a reader is at it (the assertion in `free_unseen`). No reader
 * waits: it ends its walk although the writer may stop for ever between any two of its steps
 * (`walks_end`, with -DSTOPS).
 *
 * A step here is one atomic access there, all of which are sequentially consistent, as in the C
 * code. Bounds: NODES nodes, KEYS keys in the chain, CHANGES changes, WALKS walks of each reader;
 * the generation does not wrap. */

#ifndef READERS
#define READERS 3
#endif
#ifndef CHANGES
#define CHANGES 3
#endif
#ifndef WALKS
#define WALKS 1
#endif
#define NODES 4 /* from 1; 0 is NULL */
#define KEYS 2
#define NEVER 255

byte next[NODES + 1];       /* next[0] is the array's slot: the first node of the chain */
byte key[NODES + 1];
bool used[NODES + 1];       /* allocated */
bool limbo[NODES + 1];
byte unlinked_in[NODES + 1];
byte generation = 1;
byte began_in[READERS];
byte at[READERS];           /* where a reader is: for the claim only */
byte walks[READERS];

inline free_unseen()
{
    oldest = NEVER;
    r = 0;
    do
    :: r < READERS ->
        b = began_in[r]; /* one load after the other: readers go on meanwhile */
        if
        :: b != 0 && b < oldest -> oldest = b
        :: else
        fi;
        r++
    :: else -> break
    od;
    n = 1;
    do
    :: n <= NODES ->
        d_step {
            if
#ifdef FAULTY
            :: limbo[n] ->
#else
            :: limbo[n] && unlinked_in[n] < oldest ->
#endif
                r = 0;
                do
                :: r < READERS -> assert(at[r] != n); r++
                :: else -> break
                od;
                limbo[n] = false; used[n] = false; next[n] = 0; key[n] = 0;
                unlinked_in[n] = 0; r = 0
            :: else
            fi;
            n++
        }
    :: else -> break
    od;
    n = 0; r = 0; b = 0; oldest = 0
}

inline retire(node)
{
    d_step { unlinked_in[node] = generation; generation++; limbo[node] = true }
    free_unseen()
}

/* Set `link` to the node whose `next` leads to the key, and `old` to that node; 0 when there is
 * none. */
inline find_link(k)
{
    d_step { /* only the writer changes what it reads here */
        link = 0;
        do
        :: next[link] != 0 && key[next[link]] != k -> link = next[link]
        :: else -> break
        od;
        old = next[link]
    }
}

active proctype writer()
{
    byte changes, link, old, made, k, oldest, r, n, b;
    do
    :: changes < CHANGES ->
        changes++;
        select(k : 1 .. KEYS);
        find_link(k);
        if
        :: true -> /* put */
            made = 1;
            do
            :: made <= NODES && used[made] -> made++
            :: else -> break
            od;
            if
            :: made <= NODES ->
                d_step { used[made] = true; key[made] = k; next[made] = (old -> next[old] : 0) }
                next[link] = made; /* publish */
                if
                :: old -> retire(old)
                :: else
                fi
            :: else /* no memory */
            fi
        :: old != 0 -> /* remove */
            next[link] = next[old];
            retire(old)
        fi;
        d_step { link = 0; old = 0; made = 0; k = 0 }
#ifdef STOPS
    :: true -> break
#endif
    :: changes == CHANGES -> break
    od
}

proctype reader(byte me)
{
    byte seen;
    do
    :: walks[me] < WALKS ->
        seen = generation;
        began_in[me] = seen;
        seen = 0;
        at[me] = next[0];
        do
        :: at[me] != 0 -> at[me] = next[at[me]]
        :: else -> break
        od;
        began_in[me] = 0;
#ifndef STOPS
        walks[me]++
#else
        walks[me] = 1 - walks[me]
#endif
    :: walks[me] >= WALKS -> break
    od
}

init {
    byte me;
    atomic {
        do
        :: me < READERS -> run reader(me); me++
        :: else -> break
        od
    }
}

#ifdef STOPS
ltl walks_end { []<> (walks[0] == 0) && []<> (walks[0] == 1) }
#endif
