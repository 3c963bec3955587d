import os, time, asyncio
async def app(scope, receive, send):
    if scope["type"]=="lifespan":
        while True:
            m=await receive(); await send({"type":m["type"]+".complete"})
            if m["type"]=="lifespan.shutdown": return
    path=scope["path"]
    if path=="/slow": await asyncio.sleep(3)
    if path=="/busy":
        while True: pass
    b=b"%d\n"%os.getpid()
    await send({"type":"http.response.start","status":200,"headers":[(b"content-length",b"%d"%len(b))]})
    await send({"type":"http.response.body","body":b})
async def tick():
    while True:
        print("tick", flush=True); await asyncio.sleep(2)
