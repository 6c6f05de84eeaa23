// SPDX-License-Identifier: MIT
// save_registers.S (x86_64) - cr_save_registers(format::QuickContext*): as setjmp. Returns 0; in a
// process that was restored from what was saved it returns 1.
// Invariant: saves what a called function must keep, and where it returns to.
// Context: N.
	.text
	.globl cr_save_registers
	.hidden cr_save_registers
	.type cr_save_registers, @function
cr_save_registers:
	.cfi_startproc
	mov	%rbx, 0(%rdi)
	mov	%rbp, 8(%rdi)
	mov	%r12, 16(%rdi)
	mov	%r13, 24(%rdi)
	mov	%r14, 32(%rdi)
	mov	%r15, 40(%rdi)
	lea	8(%rsp), %rax
	mov	%rax, 48(%rdi)
	mov	(%rsp), %rax
	mov	%rax, 56(%rdi)
	stmxcsr	64(%rdi)
	fnstcw	68(%rdi)
	xor	%eax, %eax
	ret
	.cfi_endproc
	.size cr_save_registers, . - cr_save_registers
	.section .note.GNU-stack, "", @progbits
