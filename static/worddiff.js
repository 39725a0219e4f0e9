// The word diff of annotation/diffing.py again, for a diff that follows the typing.
// wordDiff(one, other) → [["same" | "gone" | "new", text], …]; a test holds both equal.
"use strict";

const ALONE =
  "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff" +
  "\\uf900-\\ufaff\\uff66-\\uff9f\\u{20000}-\\u{3fffd}";
const LETTER = `(?![${ALONE}])[\\p{L}\\p{N}_]`;
const WORD = new RegExp(
  `[^\\S\\n]+|\\n|[${ALONE}]\\p{M}*|${LETTER}(?:${LETTER}|\\p{M})*|.\\p{M}*`,
  "gsu",
);
// Words times words: above it only the ends are compared, so typing never stutters.
const MOST_CELLS = 4_000_000;

function wordDiff(one, other) {
  const before = one.match(WORD) ?? [];
  const after = other.match(WORD) ?? [];
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) start++;
  let end = 0;
  while (
    end < before.length - start &&
    end < after.length - start &&
    before[before.length - 1 - end] === after[after.length - 1 - end]
  ) {
    end++;
  }
  const parts = [
    ["same", before.slice(0, start).join("")],
    ...aligned(before.slice(start, before.length - end), after.slice(start, after.length - end)),
    ["same", before.slice(before.length - end).join("")],
  ];
  return joined(parts.filter(([, text]) => text));
}

function aligned(before, after) {
  const [rows, columns] = [before.length, after.length];
  if (rows * columns > MOST_CELLS) return [["gone", before.join("")], ["new", after.join("")]];
  const width = columns + 1;
  // common[i * width + j]: most words that before[i…] and after[j…] share, in order.
  const common = new Uint16Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      common[i * width + j] =
        before[i] === after[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && before[i] === after[j]) {
      parts.push(["same", before[i]]);
      i++;
      j++;
    } else if (i < rows && (j === columns || common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      parts.push(["gone", before[i++]]);
    } else {
      parts.push(["new", after[j++]]);
    }
  }
  return parts;
}

// One "gone" and one "new" for each stretch of change, spaces inside it included.
function joined(parts) {
  const found = [];
  let [gone, fresh, pending] = ["", "", ""];
  const put = (kind, text) => {
    if (!text) return;
    if (found.at(-1)?.[0] === kind) found.at(-1)[1] += text;
    else found.push([kind, text]);
  };
  const flush = () => {
    put("gone", gone);
    put("new", fresh);
    [gone, fresh] = ["", ""];
  };
  for (const [kind, text] of parts) {
    if (kind === "same") {
      if ((gone || fresh) && !pending && /^[^\S\n]+$/.test(text)) {
        pending = text;
        continue;
      }
      flush();
      put("same", pending + text);
      pending = "";
    } else {
      gone += pending;
      fresh += pending;
      pending = "";
      if (kind === "gone") gone += text;
      else fresh += text;
    }
  }
  flush();
  put("same", pending);
  return found;
}
