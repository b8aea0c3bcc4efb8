// Calls of the gateway: the token, which the page asks for once it is wanted, and its problems.

const TOKEN = "nuclei-token";
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
 * @param {object} options of fetch, and `waiting`, which is told for how many seconds it waits.
 * @returns {Promise<Response>} an answer that is fine.
 * @throws {Problem} any other answer, or none.
 */
export async function call(path, { waiting = () => {}, ...options } = {}) {
  for (let tries = 1; ; tries++) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...headers } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "NoAnswer", detail: "the server does not answer; is it running, and is this computer connected to it?" });
    }
    if (response.ok) return response;
    if (response.status === 401) {
      asking ??= askToken(token !== null).finally(() => { asking = null; });
      await asking;
      continue;
    }
    const seconds = Number(response.headers.get("Retry-After"));
    if (seconds && tries < MOST_TRIES) {
      waiting(seconds);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      options.signal?.throwIfAborted();
      continue;
    }
    throw new Problem(await said(response));
  }
}

async function said(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText, detail: `the server answers ${response.status}` };
  }
}

function askToken(wasWrong) {
  const dialog = document.createElement("dialog");
  dialog.id = "token";
  dialog.setAttribute("aria-labelledby", "token-title");
  dialog.innerHTML = `
    <form method="dialog">
      <h2 id="token-title">This server asks for a token</h2>
      <p id="token-wrong" role="alert">That was not the token of this server.</p>
      <label for="token-text">Token</label>
      <input type="password" id="token-text" autocomplete="off" required>
      <p class="quiet">Whoever runs the server has it. It is kept until this tab is closed.</p>
      <p><button class="main">Go on</button></p>
    </form>`;
  document.body.append(dialog);
  const text = dialog.querySelector("input");
  dialog.querySelector("[role=alert]").hidden = !wasWrong;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (!text.value) return dialog.showModal(); // closed by Escape: nothing works without it
      sessionStorage.setItem(TOKEN, text.value);
      dialog.remove();
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
