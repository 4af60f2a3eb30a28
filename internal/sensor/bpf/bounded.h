/* For the verifiers of older kernels. */
#pragma once

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/*
 * An index below 2^n, for a mask of n bits. The compiler leaves out a mask where it knows that the index is small enough.
 * The verifier needs it: up to Linux 6.12 at least it forgets what is known of a number when its octets are swapped, and
 * 6.1 also when two are or-ed.
 */
static __always_inline __u32 bounded(__u32 index, __u32 mask)
{
	asm volatile("" : "+r"(index));
	return index & mask;
}

/* The lower 32 bits, in one instruction; the compiler would shift the others out and zeros in. */
static __always_inline __u64 low_half(__u64 x)
{
	__u32 half;

	asm("%0 = %1" : "=w"(half) : "w"((__u32)x));
	return half;
}

/* Which way is laid out straight on. */
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
