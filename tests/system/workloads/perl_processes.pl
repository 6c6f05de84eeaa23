# SPDX-License-Identifier: MIT
# perl_processes.pl ROUNDS - fork, pipes in both directions, open of commands, signals, waitpid.
use strict;
use warnings;
use IO::Handle;

my ($rounds) = @ARGV;
STDOUT->autoflush(1);
my $signals = 0;
$SIG{USR2} = sub { $signals++ };
for my $round (1 .. $rounds) {
    pipe(my $from_child, my $to_parent) or die;
    pipe(my $from_parent, my $to_child) or die;
    my $pid = fork() // die;
    if ($pid == 0) {
        close $from_child;
        close $to_child;
        $to_parent->autoflush(1);
        while (my $line = <$from_parent>) {
            chomp $line;
            print $to_parent scalar(reverse $line), "\n";
            select(undef, undef, undef, 0.002);
        }
        kill 'USR2', getppid();
        exit $round % 50;
    }
    close $to_parent;
    close $from_parent;
    $to_child->autoflush(1);
    my @answers;
    for my $word (1 .. 8) {
        print $to_child "round $round word $word\n";
        push @answers, scalar <$from_child>;
    }
    close $to_child;
    waitpid($pid, 0) == $pid or die "waitpid: $!";
    print "round $round status ", $? >> 8, " last $answers[-1]";
    open(my $sorted, '-|', 'seq 1 60 | sort -r | head -3') or die;
    my @lines = <$sorted>;
    close $sorted;
    print "sorted @lines[0..2]";
}
print "signals ", ($signals == $rounds ? "all" : $signals), "\n";
