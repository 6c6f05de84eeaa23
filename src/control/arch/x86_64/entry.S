// SPDX-License-Identifier: MIT
// entry.S (x86_64) - where the control thread begins, how it is cloned, the end of a thread report,
// and the continuation of an interrupted timed call.
// Invariant: cr_resume_entry leaves every register but rax, rcx and r11 as the program had it.
// Context: N, S.
//
// cr_clone_control(flags, stack_top, parent_tid): rdi rsi rdx as clone(2); returns in the parent.
// cr_control_entry: rsp = top of the control stack, rdi = 1 after a restore. Also jumped to by the
//   restorer.
	.text
	.globl cr_clone_control, cr_control_entry, cr_resume_entry, cr_resume_end, cr_report_entry
	.hidden cr_clone_control, cr_control_entry, cr_resume_entry, cr_resume_end, cr_report_entry
	.type cr_clone_control, @function
cr_clone_control:
	mov	$56, %eax		// clone
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%rax, %rax
	jnz	1f
	xor	%edi, %edi
	jmp	cr_control_entry
1:	ret

	.type cr_control_entry, @function
cr_control_entry:
	xor	%ebp, %ebp		// end of backtraces
	and	$-16, %rsp
	cld
	call	cr_control_main
	ud2

// rdi = ThreadReport*; ends in a trap that the agent, which traces the thread, is waiting for.
	.type cr_report_entry, @function
cr_report_entry:
	xor	%ebp, %ebp
	and	$-16, %rsp
	cld
	call	cr_report_thread
	int3
	ud2

// rsp = ResumeFrame (src/agent/timed_calls.h):
//   0 mode  8 nr  16..56 arguments  64..104 the program's rdi rsi rdx r10 r8 r9
//   112 rsp 120 rip 128 timespec 144 pollfd
	.type cr_resume_entry, @function
cr_resume_entry:
	cmpq	$0, 0(%rsp)
	je	1f
	lea	144(%rsp), %rdi		// wait for the socket with the time left ...
	mov	$1, %esi
	lea	128(%rsp), %rdx
	xor	%r10d, %r10d
	mov	$8, %r8d
	mov	$271, %eax		// ppoll
	syscall
	test	%rax, %rax
	js	2f			// EINTR of a handler of the program's own
	jnz	1f
	mov	$-11, %rax		// -EAGAIN: what SO_RCVTIMEO gives
	jmp	2f
1:	mov	8(%rsp), %rax		// ... then make the call
	mov	16(%rsp), %rdi
	mov	24(%rsp), %rsi
	mov	32(%rsp), %rdx
	mov	40(%rsp), %r10
	mov	48(%rsp), %r8
	mov	56(%rsp), %r9
	syscall
2:	mov	64(%rsp), %rdi
	mov	72(%rsp), %rsi
	mov	80(%rsp), %rdx
	mov	88(%rsp), %r10
	mov	96(%rsp), %r8
	mov	104(%rsp), %r9
	mov	120(%rsp), %rcx
	mov	112(%rsp), %rsp
	jmp	*%rcx
cr_resume_end:

	.section .note.GNU-stack,"",@progbits
