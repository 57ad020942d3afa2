/* For Frama-C, which has no C11 atomics and looks at one thread: an access is an access. */
#define atomic_load(p) (*(p))
#define atomic_store(p, v) (*(p) = (v))
#define atomic_load_explicit(p, order) (*(p))
#define atomic_store_explicit(p, v, order) (*(p) = (v))
static inline _Bool exchanged(_Bool *p, _Bool v)
{
    _Bool old = *p;
    *p = v;
    return old;
}
#define atomic_exchange(p, v) exchanged((_Bool *)(p), v)
