// Calls of the gateway: the tokens, which the page asks for once they are wanted, and its problems.

const CALLER = {
  key: "nuclei-token", title: "This server asks for a token", wrong: "That was not the token of this server.",
};
const ADMINISTRATOR = {
  key: "nuclei-administrator", title: "Changing what is served takes the administrator's token",
  wrong: "That was not the administrator's token of this server.", mayBeLeft: true,
};
const MOST_TRIES = 30;

/** What the gateway says of a request that failed (RFC 9457). */
export class Problem extends Error {
  constructor(said) {
    super(said.detail);
    this.name = said.title;
    this.said = said;
  }
}

let asking = null;

/**
 * Call the gateway; a busy one is asked again when it says.
 *
 * @param {string} path with its query.
 * @param {object} options of fetch; `waiting`, which is told for how many seconds it waits;
 *   `administrator`, for what takes the administrator's token; `patient`, whether to ask a busy one again.
 * @returns {Promise<Response>} an answer that is fine.
 * @throws {Problem} any other answer, or none.
 * @throws {DOMException} an AbortError: it was given up, or nobody gave the administrator's token.
 */
export async function call(path, { waiting = () => {}, administrator = false, patient = true, ...options } = {}) {
  const wanted = administrator ? ADMINISTRATOR : CALLER;
  for (let tries = 1; ; tries++) {
    const token = sessionStorage.getItem(wanted.key);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      const file = options.body instanceof FormData ? options.body.get("file") : null;
      if (file && !(await isReadable(file))) {
        throw new Problem({ title: "FileUnreadable", detail: `${file.name} cannot be read: it is a folder, or was changed or moved since it was chosen; choose the files once more` });
      }
      throw new Problem({ title: "NoAnswer", detail: "the server does not answer; is it running, and is this computer connected to it?" });
    }
    if (response.ok) return response;
    if (response.status === 401 || (administrator && response.status === 403)) {
      asking ??= askToken(wanted, token !== null).finally(() => { asking = null; });
      await asking;
      continue;
    }
    const seconds = Number(response.headers.get("Retry-After"));
    if (seconds && patient && tries < MOST_TRIES) {
      waiting(seconds);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      options.signal?.throwIfAborted();
      continue;
    }
    throw new Problem(await said(response));
  }
}

const isReadable = (file) => file.slice(0, 1).arrayBuffer().then(() => true, () => false);

async function said(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText, detail: `the server answers ${response.status}` };
  }
}

function askToken({ key, title, wrong, mayBeLeft }, wasWrong) {
  const dialog = document.createElement("dialog");
  dialog.id = "token";
  dialog.setAttribute("aria-labelledby", "token-title");
  dialog.innerHTML = `
    <form method="dialog">
      <h2 id="token-title"></h2>
      <p id="token-wrong" role="alert"></p>
      <label for="token-text">Token</label>
      <input type="password" id="token-text" autocomplete="off" required>
      <p class="quiet">Whoever runs the server has it. It is kept until this tab is closed.</p>
      <p><button class="main" value="go">Go on</button></p>
    </form>`;
  document.body.append(dialog);
  const text = dialog.querySelector("input");
  dialog.querySelector("h2").textContent = title;
  Object.assign(dialog.querySelector("[role=alert]"), { textContent: wrong, hidden: !wasWrong });
  dialog.showModal();
  return new Promise((resolve, reject) => {
    dialog.addEventListener("close", () => {
      const left = dialog.returnValue !== "go" || !text.value;
      if (left && !mayBeLeft) return dialog.showModal(); // closed by Escape: nothing works without it
      dialog.remove();
      if (left) return reject(new DOMException("no token was given", "AbortError"));
      sessionStorage.setItem(key, text.value);
      resolve();
    });
  });
}

/** A body with a file, and fields beside it. */
export function form(file, fields = {}) {
  const body = new FormData();
  body.append("file", file, file.name);
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return body;
}
