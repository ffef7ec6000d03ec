// Differences of two texts: tokens, alignment by a longest common subsequence, and pieces to mark.
"use strict";

const MAX_TABLE_SIZE = 4e6; // of the alignment; longer texts are shown without marks

// A token is a single ideograph or kana, a word, a run of symbols (such as an emoji sequence), or another character.
const IDEOGRAPH = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\u3005\\u3007\\u30fc";
const TOKEN = new RegExp(
  `[${IDEOGRAPH}]|(?:(?![${IDEOGRAPH}])[\\p{L}\\p{M}\\p{N}])+|[\\p{So}\\p{Sk}\\p{Cf}\\ufe0f]+|\\S`, "gu");

// The tokens of a text, each with the white space after it, and the white space before the first.
function tokenize(text) {
  const tokens = [];
  let end = 0, lead = "";
  for (const match of text.matchAll(TOKEN)) {
    const space = text.slice(end, match.index);
    if (tokens.length) tokens[tokens.length - 1].space = space; else lead = space;
    tokens.push({ text: match[0], space: "" });
    end = match.index + match[0].length;
  }
  const rest = text.slice(end);
  if (tokens.length) tokens[tokens.length - 1].space = rest; else lead = rest;
  return { lead, tokens };
}

// Edit steps from `left` to `right` (arrays of strings) along a longest common subsequence: ["same", i, j], ["extra", i]
// for elements of left only, ["missing", j] for elements of right only. Null if they are too long to align.
function align(left, right) {
  let begin = 0, leftEnd = left.length, rightEnd = right.length;
  while (begin < leftEnd && begin < rightEnd && left[begin] === right[begin]) begin++;
  while (leftEnd > begin && rightEnd > begin && left[leftEnd - 1] === right[rightEnd - 1]) { leftEnd--; rightEnd--; }
  const rows = leftEnd - begin, columns = rightEnd - begin, width = columns + 1;
  if ((rows + 1) * width > MAX_TABLE_SIZE) return null;
  const common = new Uint16Array((rows + 1) * width); // length of the common subsequence of the rest
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      const here = i * width + j;
      common[here] = left[begin + i] === right[begin + j]
        ? common[here + width + 1] + 1
        : Math.max(common[here + width], common[here + 1]);
    }
  }
  const steps = [];
  for (let i = 0; i < begin; i++) steps.push(["same", i, i]);
  for (let i = 0, j = 0; i < rows || j < columns;) {
    const here = i * width + j;
    if (i < rows && j < columns && left[begin + i] === right[begin + j]) steps.push(["same", begin + i++, begin + j++]);
    else if (i < rows && (j === columns || common[here + width] >= common[here + 1])) steps.push(["extra", begin + i++]);
    else steps.push(["missing", begin + j++]);
  }
  for (let i = leftEnd, j = rightEnd; i < left.length; i++, j++) steps.push(["same", i, j]);
  return steps;
}

// Pieces [kind, text] of a hypothesis compared with its reference; adjacent pieces have different kinds. Null as in align.
function differences(hypothesis, reference) {
  const left = tokenize(hypothesis), right = tokenize(reference);
  const steps = align(left.tokens.map((token) => token.text), right.tokens.map((token) => token.text));
  if (!steps) return null;
  const pieces = [["same", left.lead]];
  for (const [kind, index] of steps) {
    const token = (kind === "missing" ? right : left).tokens[index];
    const last = pieces[pieces.length - 1];
    if (last[0] === kind) last[1] += token.text + token.space;
    else pieces.push([kind, token.text + token.space]);
  }
  return pieces.filter(([, text]) => text);
}

// The length of a text for filters and sorting: its words, ideographs and kana.
function words(text) {
  let count = 0;
  for (const match of text.matchAll(TOKEN)) if (/[\p{L}\p{N}]/u.test(match[0])) count++;
  return count;
}
