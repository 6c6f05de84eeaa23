# SPDX-License-Identifier: MIT
"""inputs.py - what the real programs of the allocator benchmark work on, made by script.

Invariant: the same bytes on every machine and in every run; each program ends by itself and prints
something that depends on all of its work, so that a damaged heap shows.
"""

import random

LUA = r"""
local function tree(depth)
  if depth == 0 then return {} end
  return {tree(depth - 1), tree(depth - 1), depth = depth}
end
local function count(t) return t[1] and 1 + count(t[1]) + count(t[2]) or 1 end
local total = 0
for i = 1, 24 do total = total + count(tree(14)) end
local seed = 42
local function random(n)
  seed = (seed * 1103515245 + 12345) % 2147483648
  return seed // 65536 % n
end
local words, index = {}, {}
for i = 1, 200000 do
  local word = string.format("%s-%d", string.rep("w", random(40)), random(50000))
  words[#words + 1] = word
  local list = index[word] or {}
  list[#list + 1] = i
  index[word] = list
  if i % 3 == 0 then index[words[random(#words) + 1]] = nil end
end
table.sort(words)
local text = table.concat(words, " ")
local upper = text:gsub("%w+", function(w) return #w % 2 == 0 and w:upper() or nil end)
local closures = {}
for i = 1, 200000 do
  local n = i
  closures[i % 5000 + 1] = function() n = n + 1 return n end
end
for i = 1, 5000 do total = total + closures[i]() end
print(total, #words, #upper, upper:sub(1000, 1050))
"""

PYTHON = r"""
import hashlib, json, random, re
r = random.Random(42)
digest = hashlib.sha256()
def record(i):
    return {"id": i, "name": "n%d" % r.randrange(10**6),
            "tags": [str(r.random()) for _ in range(6)], "text": "x" * r.randrange(300),
            "sub": {"a": i * 0.5, "b": [i] * (i % 9)}}
for turn in range(10):
    records = [record(i) for i in range(8000)]
    text = json.dumps(records)
    again = json.loads(text)
    by_name = {}
    for one in again:
        by_name.setdefault(one["name"][:4], []).append((one["text"], one["id"]))
    for name in sorted(by_name):
        digest.update(repr(sorted(by_name[name])[:3]).encode())
    numbers = re.findall(r"0\.\d+", text)
    digest.update("".join(sorted(set(n[:6] for n in numbers))).encode())
    big = [bytearray(r.randrange(100, 20000)) for _ in range(4000)]
    for one in big:
        one.extend(b"y" * 700)
    digest.update(str(sum(map(len, big))).encode())
print(digest.hexdigest())
"""

SQL = """
PRAGMA temp_store = memory;
CREATE TABLE item(id INTEGER PRIMARY KEY, grp INTEGER, name TEXT, body TEXT, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
INSERT INTO item SELECT i, (i * 7919) % 1009, 'name-' || ((i * 104729) % 99991),
  substr(hex(i * 2654435761), 1, 8) || printf('%.*c', 20 + (i * 31) % 180, 'b'), i * 0.25 FROM n;
CREATE INDEX item_name ON item(name);
CREATE INDEX item_grp ON item(grp, value);
SELECT count(*), sum(length(body)) FROM item;
SELECT grp, count(*), group_concat(substr(name, 6), '.') FROM item WHERE id % 97 = 0
  GROUP BY grp HAVING grp % 50 = 0 ORDER BY grp;
UPDATE item SET body = body || name WHERE grp % 5 = 1;
DELETE FROM item WHERE grp % 7 = 3;
SELECT count(*), sum(length(body)) FROM item;
SELECT a.grp, max(a.value + b.value) FROM item a JOIN item b ON a.name = b.name AND a.id < b.id
  GROUP BY a.grp ORDER BY 2 DESC, 1 LIMIT 20;
SELECT sum(length(j)) FROM
  (SELECT json_group_array(json_object('n', name, 'v', value)) AS j FROM item GROUP BY grp);
SELECT substr(body, 1, 2) AS p, count(DISTINCT name) FROM item GROUP BY p ORDER BY p LIMIT 40;
"""


def sql():
    """The statements above, then many small ones: parsing and preparing is what allocates."""
    r = random.Random(3)
    lines = [SQL]
    for _ in range(40000):
        i = r.randrange(150000)
        lines.append(f"SELECT name, length(body) || '-{i}' FROM item WHERE id = {i} AND grp IN "
                     f"({r.randrange(1009)}, (SELECT grp FROM item WHERE name = 'name-{i}'));")
    return "\n".join(lines) + "\n"


def postscript():
    """Pages with text in several fonts and sizes, curves, clips, dictionaries and strings."""
    r = random.Random(4)
    out = ["%!PS", "/box { 4 dict begin /h exch def /w exch def newpath moveto w 0 rlineto 0 h "
           "rlineto w neg 0 rlineto closepath end } bind def"]
    fonts = ("Times-Roman", "Helvetica-Bold", "Courier", "Times-Italic")
    for page in range(120):
        for line in range(45):
            text = "".join(r.choice("abcdefghij klmnopqrst uvwxyz ") for _ in range(70))
            out.append(f"/{fonts[r.randrange(4)]} findfont {r.randrange(6, 30)} scalefont setfont "
                       f"{r.random():.2f} setgray {40 + r.randrange(9)} {40 + line * 16} moveto "
                       f"({text}) show")
        for _ in range(120):
            points = " ".join(str(r.randrange(600)) for _ in range(6))
            out.append(f"gsave {r.randrange(500)} {r.randrange(700)} {r.randrange(20, 300)} "
                       f"{r.randrange(20, 300)} box clip newpath {r.randrange(600)} "
                       f"{r.randrange(800)} moveto {points} curveto "
                       f"{r.random():.2f} {r.random():.2f} {r.random():.2f} setrgbcolor "
                       f"{r.choice(('fill', 'stroke', 'eofill'))} grestore")
        out.append(f"/d 50 dict def 0 1 300 {{ /i exch def d i 50 mod i 20 add string put "
                   f"/a i array def }} for ({page}) pop showpage")
    return "\n".join(out) + "\n"


def smt():
    """Factors as bit-vectors, a pigeonhole problem, uninterpreted functions over integers."""
    r = random.Random(5)
    out = ["(set-logic ALL)", "(set-option :random-seed 1)"]
    for name in ("a", "b"):
        out.append(f"(declare-const {name} (_ BitVec 28))")
    out += ["(push)", "(assert (= (bvmul a b) (_ bv169338133 28)))",  # 13007 * 13019
            "(assert (bvult a b))", "(assert (bvult (_ bv1 28) a))",
            "(assert (bvult b (_ bv16384 28)))", "(check-sat)", "(pop)"]
    pigeons, holes = 9, 8
    out.append("(push)")
    for p in range(pigeons):
        for h in range(holes):
            out.append(f"(declare-const p{p}h{h} Bool)")
        out.append("(assert (or " + " ".join(f"p{p}h{h}" for h in range(holes)) + "))")
    for h in range(holes):
        for p in range(pigeons):
            for q in range(p):
                out.append(f"(assert (or (not p{p}h{h}) (not p{q}h{h})))")
    out += ["(check-sat)", "(pop)"]
    out += ["(push)", "(declare-fun f (Int Int) Int)"]
    out += [f"(declare-const x{i} Int)" for i in range(200)]
    for _ in range(1500):
        i, j, k, m = (r.randrange(200) for _ in range(4))
        out.append(f"(assert (or (< (+ (f x{i} x{j}) {r.randrange(9)}) (f x{k} x{m})) "
                   f"(= (f x{k} x{i}) x{j}) (> (- x{m} x{j}) {r.randrange(20)})))")
    out += ["(check-sat)", "(pop)"]
    return "\n".join(out) + "\n"


def cplusplus():
    """Templates: the standard library's and towers of our own, instantiated many times."""
    out = ["#include <algorithm>", "#include <functional>", "#include <map>", "#include <memory>",
           "#include <string>", "#include <tuple>", "#include <unordered_map>",
           "#include <variant>", "#include <vector>",
           "template <int N> struct Fold { template <class T> static T of(T t) {",
           "  return Fold<N - 1>::of(t * 3 + N) ^ t; } };",
           "template <> struct Fold<0> { template <class T> static T of(T t) { return t; } };"]
    for i in range(2):
        out.append(f"""
struct Key{i} {{ int a; std::string b; auto operator<=>(const Key{i}&) const = default; }};
template <class T> struct Node{i} {{ T value; std::unique_ptr<Node{i}> next;
  std::variant<int, T, std::string> any; }};
long use{i}(int n) {{
  std::map<Key{i}, std::vector<std::tuple<int, Key{i}, double>>> map;
  std::unordered_map<std::string, std::function<long(Key{i})>> calls;
  for (int i = 0; i < n; i++) {{
    Key{i} key{{i, std::to_string(i)}};
    map[key].emplace_back(i, key, i * 0.5);
    calls.emplace(key.b, [key, n](Key{i} k) {{
      return Fold<{i + 20}>::of(long(k.a + key.a + n)); }});
  }}
  Node{i}<Key{i}> node{{{{n, "n"}}, nullptr, std::string("x")}};
  std::vector<Key{i}> keys;
  for (auto& [key, list] : map) {{
    std::sort(list.begin(), list.end());
    keys.push_back(key);
  }}
  std::stable_sort(keys.begin(), keys.end());
  return calls.size() + keys.size() +
         std::visit([](auto& v) {{ return long(sizeof v); }}, node.any);
}}""")
    return "\n".join(out) + "\n"


def redis_command(*words):
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


def redis_batches():
    """[bytes]: pipelines of commands whose replies do not depend on the server's hash seed or on
    the time; each ends with an ECHO that tells that it is over."""
    r = random.Random(6)
    filler = bytes(r.randrange(97, 123) for _ in range(8192))
    batches = []
    for number in range(400):
        commands = []
        for _ in range(500):
            key, what = r.randrange(40000), r.randrange(16)
            start = r.randrange(4096)
            small = filler[start:start + r.randrange(1, 120)]
            large = filler[start:start + r.randrange(100, 2500)]
            commands.append(redis_command(*(
                ("SET", f"s{key}", small), ("SET", f"s{key}", large), ("SET", f"m{key}", small),
                ("GET", f"s{key}"), ("GET", f"m{key}"), ("APPEND", f"m{key}", small),
                ("HSET", f"h{key % 3000}", f"f{key % 97}", small), ("HGET", f"h{key % 3000}", "f7"),
                ("RPUSH", f"l{key % 500}", small), ("LTRIM", f"l{key % 500}", -300, -1),
                ("ZADD", f"z{key % 300}", key, f"e{key % 500}"),
                ("ZRANGE", f"z{key % 300}", 0, 9), ("SADD", f"t{key % 2000}", f"{key}{small[:8]}"),
                ("DEL", f"s{key}"), ("UNLINK", f"m{key}"),
                ("UNLINK", f"{'hlzt'[key % 4]}{key % 300}"),
            )[what]))
        commands.append(redis_command("ECHO", f"end-of-batch-{number}"))
        batches.append(b"".join(commands))
    return batches


def redis_marker(number):
    text = b"end-of-batch-%d" % number
    return b"$%d\r\n%s\r\n" % (len(text), text)
