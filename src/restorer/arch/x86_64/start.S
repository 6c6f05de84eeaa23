// SPDX-License-Identifier: MIT
// start.S (x86_64) - entry of the restorer, thread creation, and the last instruction of a restore.
// Invariant: position independent; nothing outside the blob is referenced. Context: R.
//
// cr_restorer_start: rdi = RestorerArgs*, rsp = stack in the restorer's region, jumped to.
// cr_restorer_clone3(args rdi, size rsi, fn rdx, arg rcx): clone3; the child runs fn(arg) on its
//   new stack and never returns. Result of clone3 in the parent.
// cr_restorer_sigreturn(rdi = ucontext): gives all registers their saved values.
	.section .text.start, "ax", @progbits
	.globl cr_restorer_start
cr_restorer_start:
	xor	%ebp, %ebp
	and	$-16, %rsp
	cld
	call	cr_restorer_main
	ud2

	.text
	.globl cr_restorer_clone3, cr_restorer_sigreturn
cr_restorer_clone3:
	mov	%rdx, %r8		// clone3 keeps rdx, r8, r9
	mov	%rcx, %r9
	mov	$435, %eax
	syscall
	test	%rax, %rax
	jz	1f
	ret
1:	xor	%ebp, %ebp
	and	$-16, %rsp
	mov	%r9, %rdi
	call	*%r8
	ud2

cr_restorer_sigreturn:
	mov	%rdi, %rsp
	mov	$15, %eax
	syscall
	ud2

	.section .note.GNU-stack,"",@progbits
