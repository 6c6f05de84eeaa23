// SPDX-License-Identifier: MIT
// JavaWork ROUNDS - threads, collections, string building, garbage. The same output each time.
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

public class JavaWork {
  static long work(int round, int part) {
    HashMap<String, Integer> counts = new HashMap<>();
    long sum = 0;
    for (int i = 0; i < 4000; i++) {
      String word = Integer.toString((round * 31 + part * 17 + i * 7919) % 997, 36);
      counts.merge(word, i, Integer::sum);
    }
    for (int value : counts.values()) sum = sum * 31 + value;
    return sum;
  }

  public static void main(String[] arguments) throws Exception {
    int rounds = Integer.parseInt(arguments[0]);
    ExecutorService pool = Executors.newFixedThreadPool(3);
    long total = 0;
    for (int round = 1; round <= rounds; round++) {
      List<Future<Long>> parts = new ArrayList<>();
      final int current = round;
      for (int part = 0; part < 3; part++) {
        final int which = part;
        parts.add(pool.submit(() -> work(current, which)));
      }
      for (Future<Long> part : parts) total = total * 31 + part.get();
      Thread.sleep(8);
      if (round % 20 == 0) System.out.println(round + " " + total);
    }
    pool.shutdown();
    System.out.println("end " + total);
  }
}
