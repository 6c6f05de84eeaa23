// SPDX-License-Identifier: MIT
// dlopen.S (x86_64) - dlopen and dlmopen without RTLD_DEEPBIND; why is in deep_bind.cc.
// Invariant: jumps, never calls, into the C library's: that finds out by the return address whose
// search path counts, so it must be the program's.
// Context: N.
	.text

// flags: the register with the flags. next: the pointer to the C library's function.
	.macro without_deepbind name, flags, next
	.globl \name
	.type \name, @function
\name:
	endbr64
	and	$~0x8, \flags		// RTLD_DEEPBIND
	mov	\next(%rip), %rax
	test	%rax, %rax
	jnz	1f
	push	%rdi
	push	%rsi
	push	%rdx
	call	cr_find_dlopen
	pop	%rdx
	pop	%rsi
	pop	%rdi
	mov	\next(%rip), %rax
1:	jmp	*%rax
	.size \name, .-\name
	.endm

	without_deepbind dlopen, %esi, cr_next_dlopen
	without_deepbind dlmopen, %edx, cr_next_dlmopen
	.section .note.GNU-stack, "", @progbits
