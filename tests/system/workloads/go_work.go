// SPDX-License-Identifier: MIT
// go_work ROUNDS - goroutines, channels, maps, timers; linked dynamically (cgo). The same output each
// time.
package main

import "C"

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	rounds, _ := strconv.Atoi(os.Args[1])
	numbers := make(chan int)
	sums := make(chan int)
	var group sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := range numbers {
				seen := map[int]int{}
				for i := 0; i < 3000; i++ {
					seen[(i*n)%257] += i
				}
				total := 0
				for _, v := range seen {
					total += v % 1009
				}
				sums <- total
			}
		}()
	}
	total := 0
	for round := 1; round <= rounds; round++ {
		go func() {
			for i := 1; i <= 4; i++ {
				numbers <- round*4 + i
			}
		}()
		for i := 0; i < 4; i++ {
			total += <-sums
		}
		time.Sleep(5 * time.Millisecond)
		if round%20 == 0 {
			fmt.Println(round, total)
		}
	}
	close(numbers)
	group.Wait()
	fmt.Println("end", total)
}
