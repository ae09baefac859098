// libp2p 3 expects Node 22; Debian and Ubuntu still ship 18 and 20. These few things are all it misses.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((res, rej) => { resolve = res; reject = rej })
  return { promise, resolve, reject }
}
globalThis.CustomEvent ??= class CustomEvent extends Event {
  constructor (type, options) { super(type, options); this.detail = options?.detail ?? null }
}
