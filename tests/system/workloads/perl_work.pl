# SPDX-License-Identifier: MIT
# perl_work.pl FILE ROUNDS - hashes, sorting, regular expressions, closures, sprintf and a file that is
# read line by line, over and over. One line per round; the same input gives the same output.
use strict;
use warnings;

my ($file, $rounds) = @ARGV;
open(my $input, '<', $file) or die "$file: $!";

sub counter {    # a closure with its own state
    my $n = shift;
    return sub { $n = ($n * 6364136223846793005 + 1442695040888963407) % 18446744073709551557; $n };
}

my %seen;
my @closures = map { counter($_) } 1 .. 10;
my $checksum = 0;
for my $round (1 .. $rounds) {
    my @words;
    while (@words < 6000) {
        my $line = <$input>;
        if (!defined $line) { seek($input, 0, 0); next; }
        chomp $line;
        push @words, split /\s+/, $line;
    }
    for my $word (@words) {
        (my $changed = lc $word) =~ s/([aeiou])/<$1>/g;
        $seen{substr($changed, 0, 4)}{length $changed}++;
    }
    my @order = sort { ($seen{$b}{5} // 0) <=> ($seen{$a}{5} // 0) || $a cmp $b } keys %seen;
    $checksum = ($checksum * 31 + $closures[$round % 10]->() % 1000003 + @order) % 2147483647;
    my $joined = join ',', map { sprintf '%s=%d', $_, scalar keys %{ $seen{$_} } } @order[0 .. 4];
    printf "%d %d %s\n", $round, $checksum, $joined;
    $| = $round % 2;    # flush some rounds, leave others in the buffer
}
print "done $checksum ", scalar(keys %seen), "\n";
