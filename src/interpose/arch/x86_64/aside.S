// SPDX-License-Identifier: MIT
// aside.S (x86_64) - a function in a process with descriptors of its own, in this one's memory.
// Invariant: the caller waits until the other process is done with the memory. All signals are
// blocked, for it has the program's handlers.
// Context: N, H.
//
// cr_call_aside(function, argument, stack_top): rdi rsi rdx. Returns the process's id or -errno.
	.text
	.globl cr_call_aside
	.hidden cr_call_aside
	.type cr_call_aside, @function
cr_call_aside:
	and	$-16, %rdx
	mov	%rdi, -8(%rdx)
	mov	%rsi, -16(%rdx)
	lea	-16(%rdx), %rsi
	mov	$0x4100, %edi		// CLONE_VM | CLONE_VFORK, no signal at its end
	xor	%edx, %edx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	mov	$56, %eax		// clone
	syscall
	test	%rax, %rax
	jnz	1f
	xor	%ebp, %ebp
	cld
	pop	%rdi
	pop	%rax
	call	*%rax
	xor	%edi, %edi
	mov	$231, %eax		// exit_group
	syscall
	ud2
1:	ret
	.size cr_call_aside, .-cr_call_aside
	.section .note.GNU-stack, "", @progbits
