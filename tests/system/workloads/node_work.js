// SPDX-License-Identifier: MIT
// node_work.js ROUNDS - timers, promises, a worker thread, a child process, hashing. The same output
// each time.
const { spawn } = require('child_process');
const { createHash } = require('crypto');
const { Worker } = require('worker_threads');

const rounds = Number(process.argv[2]);
const worker = new Worker(
  `const { parentPort } = require('worker_threads');
   parentPort.on('message', n => {
     let sum = 0;
     for (let i = 0; i < 200000; i++) sum = (sum * 31 + i * n) % 1000003;
     parentPort.postMessage(sum);
   });`, { eval: true });
const ask = n => new Promise(done => { worker.once('message', done); worker.postMessage(n); });
const pause = ms => new Promise(done => setTimeout(done, ms));
const child = n => new Promise(done => {
  const p = spawn('sh', ['-c', `echo child ${n}; exit ${n % 7}`]);
  let text = '';
  p.stdout.on('data', data => { text += data; });
  p.on('close', code => done(`${text.trim()} status ${code}`));
});
(async () => {
  let hash = '';
  for (let n = 1; n <= rounds; n++) {
    hash = createHash('sha256').update(hash + n + await ask(n)).digest('hex');
    await pause(5);
    if (n % 20 === 0) console.log(n, hash.slice(0, 16), await child(n));
  }
  await worker.terminate();
  console.log('end', hash);
})();
