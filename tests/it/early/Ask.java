import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.Arrays;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** Asks as Java does: a line for each question, with its path, type, site and number of bytes. */
class Ask {
    public static void main(String[] arguments) throws Exception {
        var trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null);
        try (var file = new FileInputStream(arguments[1])) {
            var certificate = CertificateFactory.getInstance("X.509").generateCertificate(file);
            trusted.setCertificateEntry("server", certificate);
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        var context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        var client = HttpClient.newBuilder().version(Version.HTTP_2).sslContext(context).build();
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (var line = lines.readLine(); line != null; line = lines.readLine()) {
            var words = line.split(" ");
            var body = new byte[Integer.parseInt(words[3])];
            Arrays.fill(body, (byte) 'a');
            var request = HttpRequest.newBuilder(URI.create(arguments[0] + words[0]))
                .timeout(Duration.ofSeconds(20))
                .header("content-type", words[1])
                .header("sec-fetch-site", words[2])
                .POST(BodyPublishers.ofByteArray(body));
            var answer = client.send(request.build(), BodyHandlers.ofString());
            if (answer.version() != Version.HTTP_2) {
                throw new IllegalStateException("not asked over HTTP/2");
            }
            System.out.println(answer.statusCode() + " " + String.join(" ", answer.body().split("\\s+")));
        }
    }
}
